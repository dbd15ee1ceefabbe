"""SageMaker's machines, as far as a job depends on them: GPUs, their memory, disks.

The numbers are those of AWS's list of accelerated instances; other machines are not checked.
"""

_GPUS: dict[str, tuple[float, dict[str, int]]] = {
    "g4dn": (16, {"12xlarge": 4}),
    "g5": (24, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6": (24, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6e": (48, {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g7e": (96, {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8}),
    "p3": (16, {"8xlarge": 4, "16xlarge": 8}),
    "p3dn": (32, {"24xlarge": 8}),
    "p4d": (40, {"24xlarge": 8}),
    "p4de": (80, {"24xlarge": 8}),
    "p5": (80, {"48xlarge": 8}),
    "p5e": (141, {"48xlarge": 8}),
    "p5en": (141, {"48xlarge": 8}),
}
"""By family: memory of one GPU in 10^9 bytes, and the sizes with more than one GPU."""

_WITH_DISKS = (*(family for family in _GPUS if family != "p3"), "g7", "r5d", "trn1", "trn1n")
_WITHOUT_GPUS = ("c", "m", "r", "t3")


def gpus_of(machine: str) -> int | None:
    """GPUs of a machine type such as `ml.g5.xlarge`; None where it is not known."""
    family, size = _parts(machine)
    if family in _GPUS:
        return _GPUS[family][1].get(size, 1)
    return 0 if family.startswith(_WITHOUT_GPUS) else None


def memory_gb_of(machine: str) -> float | None:
    """Memory of one of its GPUs in 10^9 bytes; None where it is not known, or has none."""
    family, _ = _parts(machine)
    return _GPUS[family][0] if family in _GPUS else None


def has_own_disk(machine: str) -> bool:
    """Return whether the machine has NVMe disks, which take the place of a volume."""
    family, _ = _parts(machine)
    return family in _WITH_DISKS or family.startswith("p6")


def _parts(machine: str) -> tuple[str, str]:
    family, _, size = machine.removeprefix("ml.").partition(".")
    return family, size
