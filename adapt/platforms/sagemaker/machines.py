"""SageMaker's machines, as far as a job depends on them: GPUs, their model and memory, disks.

The numbers are those of AWS's list of accelerated instances; other machines are not checked.
"""

_GPUS: dict[str, tuple[str, float, dict[str, int]]] = {
    "g4dn": ("T4", 16, {"12xlarge": 4}),
    "g5": ("A10G", 24, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6": ("L4", 24, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6e": ("L40S", 48, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g7e": ("RTX PRO 6000", 96, {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8}),
    "p3": ("V100", 16, {"8xlarge": 4, "16xlarge": 8}),
    "p3dn": ("V100", 32, {"24xlarge": 8}),
    "p4d": ("A100", 40, {"24xlarge": 8}),
    "p4de": ("A100", 80, {"24xlarge": 8}),
    "p5": ("H100", 80, {"48xlarge": 8}),
    "p5e": ("H200", 141, {"48xlarge": 8}),
    "p5en": ("H200", 141, {"48xlarge": 8}),
}
"""By family: model of the GPU, memory of one in 10^9 bytes, and the sizes with more than one."""

_WITH_DISKS = (*(family for family in _GPUS if family != "p3"), "g7", "r5d", "trn1", "trn1n")
_WITHOUT_GPUS = ("c", "m", "r", "t3")


def gpus_of(machine: str) -> int | None:
    """GPUs of a machine type such as `ml.g5.xlarge`; None where it is not known."""
    family, size = _parts(machine)
    if family in _GPUS:
        return _GPUS[family][2].get(size, 1)
    return 0 if family.startswith(_WITHOUT_GPUS) else None


def memory_gb_of(machine: str) -> float | None:
    """Memory of one of its GPUs in 10^9 bytes; None where it is not known, or has none."""
    family, _ = _parts(machine)
    return _GPUS[family][1] if family in _GPUS else None


def model_of(machine: str) -> str | None:
    """Model of its GPUs; None where it is not known, or has none."""
    family, _ = _parts(machine)
    return _GPUS[family][0] if family in _GPUS else None


def has_own_disk(machine: str) -> bool:
    """Return whether the machine has NVMe disks, which take the place of a volume."""
    family, _ = _parts(machine)
    return family in _WITH_DISKS or family.startswith("p6")


def _parts(machine: str) -> tuple[str, str]:
    family, _, size = machine.removeprefix("ml.").partition(".")
    return family, size
