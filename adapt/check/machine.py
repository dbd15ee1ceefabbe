"""The machine: memory between its processes, its disk, and the memory of its GPUs."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)

from adapt.accelerator import accelerator, num_accelerators, properties_of
from adapt.check.data import SplitReport
from adapt.check.memory import Peak, predicted_bytes
from adapt.check.outgrowing import Fitting, fitting
from adapt.check.subject import Findings, Subject, red
from adapt.engine.gpu import check_gpu
from adapt.errors import JobError
from adapt.platforms.gpus import check_gpus
from adapt.platforms.platform import Finding
from adapt.trainer.problems import BATCHES, problems

SHM = Path("/dev/shm")
SHM_BYTES = 10**9
"""Need of NCCL between the ranks of a node; docker's default of 64 MB is too little."""

RESERVE_BYTES = 1 << 30
"""Space that the shard cache leaves free, for metrics and pictures buffered for MLflow."""

Splits = Callable[[], Mapping[str, SplitReport]]


def shm_findings(subject: Subject) -> Findings:
    """/dev/shm, through which the ranks of a node pass gradients."""
    ranks = subject.local_ranks
    if ranks == 1:
        yield Finding("/dev/shm", True, "one rank a node needs none of it")
        return
    free = _there_or_here(subject, subject.promised_gb.shm, SHM)
    if free is None:
        yield Finding("/dev/shm", True, "checked only there")
        return
    fix = "docker run --shm-size=1g, or shm_gb of the profile"
    found = f"{free / 1e9:.2f} GB for {ranks} ranks, {SHM_BYTES / 1e9:.0f} GB needed"
    yield Finding("/dev/shm", free >= SHM_BYTES, found, fix)


def disk_findings(subject: Subject, splits: Splits) -> Findings:
    """The scratch disk against the shards that are fetched onto it."""
    folder = subject.place.scratch_dir
    free = _there_or_here(subject, subject.promised_gb.disk, folder)
    if free is None:
        yield Finding("disk", True, "checked only there")
        return
    sizes = [size for one in splits().values() if one.remote for size in one.shard_bytes]
    room, wanted = free - RESERVE_BYTES, sum(sizes)
    has = f"{free / 1e9:.1f} GB free" + (f" in {folder}" if subject.profile is None else "")
    if room < max(sizes, default=0):
        found = f"{has}, {(RESERVE_BYTES + max(sizes, default=0)) / 1e9:.1f} GB needed at least"
        yield Finding(
            "disk", False, found, "make room, or set SEGADAPT_SCRATCH_DIR to a larger disk"
        )
    elif room < wanted:
        share = f"{room / wanted:.0%} of {wanted / 1e9:.1f} GB of shards stay on it"
        yield Finding("disk", True, f"{has}: {share}, the others are fetched again each epoch")
    else:
        yield Finding("disk", True, f"{has} for {wanted / 1e9:.1f} GB of shards")


def gpu_model_findings(subject: Subject) -> Findings:
    """The GPU's kernels and driver: of the profile's machines, or, where they do not fit torch, of
    this one."""
    profile, what = subject.profile, "GPU model"
    device = accelerator()
    try:
        if profile is None:
            check_gpu(device, subject.place.environment)
        elif profile.gpus:
            yield Finding(what, True, check_gpus(profile))
    except JobError as error:
        yield red(what, error)


def gpu_findings(subject: Subject, splits: Splits) -> Findings:
    """The predicted memory of a step against the GPU's; nothing where the batches do not fit the
    ranks, which the checks of the spec report."""
    job, what = subject.job, "GPU memory"
    if any(problems(job, subject.place_of_job, BATCHES)):
        return
    parts = (*job.parts("source"), *job.parts("target"))
    unsized = [part.name for part in parts if part.config.image_hw is None]
    reports = splits() if unsized else {}
    failed = [name for name in unsized if name in reports and not reports[name].readable]
    if failed:
        named = " and ".join(failed)
        yield Finding(what, True, f"not predicted: the images of {named} have an error")
        return
    try:
        sizes = {name: one.packed_hw for name, one in reports.items() if one.packed_hw is not None}
        peak = predicted_bytes(job, subject.num_ranks, sizes)
    except JobError as error:
        yield red(what, error)
        return
    except (UnsupportedFakeTensorException, DynamicOutputShapeException) as error:
        yield Finding(what, True, f"not predicted: {error} in the network has no prediction")
        return
    limit, of = _gpu_bytes(subject)
    found = _compared(what, peak, limit, of)
    if limit is not None and not found.ok:
        option = fitting(job, subject.num_ranks, sizes, limit)
        found = found._replace(fix=_advice(option))
    yield found


def _advice(found: Fitting | None) -> str:
    if found is None:
        return (
            "lower batch_size or augment.crop_hw, or take a larger GPU: no option of train makes "
            "it fit"
        )
    return (
        f"set {found.option.text()}, with which {found.needed / 1e9:.1f} GB are needed; or lower "
        "batch_size or augment.crop_hw, or take a larger GPU"
    )


def _compared(what: str, peak: Peak, limit: float | None, of: str) -> Finding:
    parts = zip(peak._fields, peak, strict=True)
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts)
    found = f"{peak.needed / 1e9:.1f} GB of {of}"
    found += f": {listed}, margin {(peak.needed - peak.total) / 1e9:.2f}"
    return Finding(what, limit is None or peak.needed <= limit, found)


def _gpu_bytes(subject: Subject) -> tuple[float | None, str]:
    """The memory of one GPU, and its name in the finding."""
    if subject.profile is not None:
        gb = subject.profile.gpu_memory_gb
        if gb is None:
            return None, "a GPU of unknown memory (no gpu_memory_gb in the profile)"
        return gb * 1e9, f"{gb:.1f} GB"
    if not num_accelerators():
        return None, "a GPU, which this machine lacks"
    found = float(properties_of(accelerator(0)).memory_bytes)
    return found, f"{found / 1e9:.1f} GB"


def _there_or_here(subject: Subject, promised_gb: float | None, folder: Path) -> float | None:
    """Free bytes: the profile's promise, or without a profile those here; None without a
    promise."""
    if promised_gb is not None:
        return promised_gb * 1e9
    return _free(folder) if subject.profile is None else None


def _free(folder: Path) -> float:
    """Free bytes of the disk of a folder, which need not exist."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return float(shutil.disk_usage(there).free)
