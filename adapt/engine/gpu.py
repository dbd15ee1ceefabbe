"""The GPU, compared with the kernels and the driver that this installation's torch needs.

torch itself says neither in words: without kernels the first operation fails, and with too old a
driver it takes the machine for one without GPUs, and a job would train on the CPU.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapt.errors import JobError

if TYPE_CHECKING:
    import torch

Capability = tuple[int, int]
"""A GPU's compute capability, major and minor."""


class CudaNeeds(NamedTuple):
    """The needs of torch's wheels for a CUDA: the oldest GPU that has kernels, the oldest driver,
    and the newest GPU's major version, where newer ones have no kernels."""

    capability: Capability
    driver: int
    newest_major: int | None = None


CUDAS = {12: CudaNeeds((5, 0), 525, newest_major=9), 13: CudaNeeds((7, 5), 580)}
"""By CUDA's major version. Sources: torch's builds (cu126, cu130) and NVIDIA's table of minor
version compatibility."""

OTHER = "take machines with newer GPUs, or an image that was built with --build-arg CUDA=12"
_DRIVER = "proc/driver/nvidia/version"


def check_gpu(
    device: "torch.device", environment: Mapping[str, str], root: Path = Path("/")
) -> None:
    """Raise `JobError` where this torch cannot run on the device, or, for a CPU, where only the
    driver's age keeps it from a GPU that this process may use."""
    import torch

    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        check_kernels(name, capability, torch.cuda.get_arch_list())
    elif torch.version.cuda is not None and _has_gpu(environment, root):
        check_driver(_driver(root), torch.version.cuda)


def gpu_text(device: "torch.device", root: Path = Path("/")) -> str:
    """One line about a GPU: model and memory; of CUDA's also compute capability, and the versions
    of its driver and libraries."""
    import torch

    from adapt.accelerator import properties_of

    found = properties_of(device)
    text = f"{found.name}, {found.memory_bytes / 2**30:.0f} GiB"
    if device.type != "cuda":
        return text
    version, libraries = _driver_version(root), cuda_versions()
    parts = [
        text,
        f"compute capability {_text(torch.cuda.get_device_capability(device))}",
        "driver unknown" if version is None else f"driver {version}",
        f"CUDA {libraries['cuda']}",
        f"cuDNN {libraries['cudnn']}",
        f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}",
    ]
    return ", ".join(parts)


def cuda_versions() -> dict[str, str]:
    """The versions of CUDA and cuDNN that torch was built with; empty for a torch without."""
    import torch

    if torch.version.cuda is None:
        return {}
    return {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}


def allowed_tf32() -> tuple[bool, bool]:
    """True of convolutions, and of matrix products, where those of fp32 may be computed in TF32."""
    import torch

    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def check_kernels(name: str, capability: Capability, kernels: Sequence[str]) -> None:
    """Raise `JobError` where none of torch's `kernels`, such as sm_80 or compute_90, runs on a GPU.

    Kernels run on the same major version from their minor one on; compute_* on all later ones.
    """
    built = [(kind, int(number[:-1]), int(number[-1])) for kind, number in map(_parts, kernels)]
    fits = any(
        (major, minor) <= capability and (kind == "compute" or major == capability[0])
        for kind, major, minor in built
    )
    if built and not fits:
        known = sorted((major, minor) for _, major, minor in built)
        raise JobError(
            f"GPU: expected compute capability {_text(known[0])} to {_text(known[-1])}, for which "
            f"this torch has kernels, got {_text(capability)} ({name})",
            fix=OTHER if capability < known[0] else "take an image with a newer torch or CUDA",
        )


def check_driver(driver: int | None, cuda: str) -> None:
    """Raise `JobError` where a driver's major version is older than torch's CUDA needs."""
    needs = CUDAS.get(int(cuda.partition(".")[0]))
    if driver is not None and needs is not None and driver < needs.driver:
        raise JobError(
            f"driver: expected NVIDIA's version {needs.driver} or later, as CUDA {cuda} needs, got "
            f"{driver}",
            fix="take machines with a newer driver, or an image that was built with --build-arg "
            "CUDA=12",
        )


def _text(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


def _parts(kernel: str) -> tuple[str, str]:
    """`sm_90a` -> sm, 90."""
    kind, _, number = kernel.partition("_")
    return kind, re.sub(r"\D", "", number)


def _has_gpu(environment: Mapping[str, str], root: Path) -> bool:
    """Return whether a GPU is there and not hidden from this process."""
    hidden = environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and any((root / "dev").glob("nvidia[0-9]*"))


def _driver(root: Path) -> int | None:
    """The driver's major version, if it says one."""
    version = _driver_version(root)
    return None if version is None else int(version.partition(".")[0])


def _driver_version(root: Path) -> str | None:
    """The driver's version, as 580.65.06, if it says one."""
    path = root / _DRIVER
    found = re.search(r"\s(\d{3,4}(?:\.\d+)+)", path.read_text()) if path.exists() else None
    return None if found is None else found[1]
