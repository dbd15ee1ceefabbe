"""The accelerators of a machine, such as GPUs, by `torch.accelerator`: CUDA, ROCm, XPU, and Ascend
where torch_npu is installed. What CUDA alone has is in `adapt.engine.gpu`.

Kinds other than CUDA were never tried.
"""

from typing import NamedTuple

import torch

CPU = torch.device("cpu")


class Properties(NamedTuple):
    """An accelerator's name, and its memory in bytes."""

    name: str
    memory_bytes: int


def num_accelerators() -> int:
    """How many this process sees."""
    return int(torch.accelerator.device_count()) if torch.accelerator.is_available() else 0


def accelerator(index: int | None = None) -> torch.device:
    """That of this index, without one the present one; the CPU where there is none."""
    if not torch.accelerator.is_available():
        return CPU
    kind = torch.accelerator.current_accelerator()
    assert kind is not None, "one is available"
    return torch.device(kind.type) if index is None else torch.device(kind.type, index)


def is_accelerator(device: torch.device) -> bool:
    """Return whether a device works beside the CPU, which need not wait for it."""
    return device.type not in ("cpu", "meta")


def properties_of(device: torch.device) -> Properties:
    """Name and memory of an accelerator."""
    found = torch.get_device_module(device).get_device_properties(device)
    return Properties(str(found.name), int(found.total_memory))
