"""The machine and the versions of a session, for the report. Without names of hosts and users."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from adapt.accelerator import is_accelerator, properties_of
from adapt.engine.gpu import cuda_versions
from adapt.places import Place

PACKAGES = ("segadapt", "torch", "torchvision", "timm", "numpy", "Pillow", "mlflow-skinny")


def session_facts(place: Place, device: torch.device) -> dict[str, Any]:
    """The facts of a start of a job, as plain data: time, platform, ranks, machine, versions."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": place.platform,
        "nodes": place.num_nodes,
        "ranks": place.num_ranks,
        **machine_facts(device),
        "versions": versions(),
    }


def machine_facts(device: torch.device) -> dict[str, Any]:
    """GPUs of a rank's kind, processor, cores and memory of the node."""
    facts: dict[str, Any] = {"device": device.type, "gpu": None}
    if is_accelerator(device):
        found = properties_of(device)
        facts["gpu"] = f"{found.name}, {found.memory_bytes / 2**30:.0f} GiB"
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        **facts,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """The versions of Python, of the packages that change results, and of CUDA's libraries."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # as segadapt in a folder that is not installed
            continue
    return found | cuda_versions()


def _processor() -> str:
    """The model of the processor, where the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
