"""The device that a process trains on."""

import torch


def prepare_device(local_rank: int) -> torch.device:
    """The device of this process: its GPU where there is one, else the CPU with denormals flushed
    to zero.

    Adversarial passes run far slower on denormal numbers; threads inherit the setting, so this
    comes first.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    torch.set_flush_denormal(True)
    return torch.device("cpu")
