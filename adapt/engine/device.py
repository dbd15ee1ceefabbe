"""The device that a process trains on."""

import torch

from adapt.accelerator import CPU, accelerator, num_accelerators


def prepare_device(local_rank: int) -> torch.device:
    """The device of this process: its GPU where there is one, else the CPU with denormals flushed
    to zero.

    Adversarial passes run far slower on denormal numbers; threads inherit the setting, so this
    comes first.
    """
    if num_accelerators():
        torch.accelerator.set_device_index(local_rank)
        return accelerator(local_rank)
    torch.set_flush_denormal(True)
    return CPU
