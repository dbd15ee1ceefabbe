"""Random draws of a training step: a function of the step's seed and of the samples' names alone.

Hence a step repeats exactly after a resume, and an image is changed in the same way on whichever
rank and in whichever part of an accumulated batch it stands. Draws are made on the CPU and
`sent` to the device, so none waits for it.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adapt.accelerator import is_accelerator


class Draws(NamedTuple):
    """The draws of one step; `seed` is the same on all ranks."""

    seed: int

    def of_step(self, purpose: str) -> np.random.Generator:
        """Draws that all images of the step share."""
        return np.random.default_rng((self.seed, _number(purpose)))

    def of_sample(self, purpose: str, key: str) -> np.random.Generator:
        """Draws of the one sample with this key."""
        return np.random.default_rng((self.seed, _number(purpose), _number(key)))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Numbers in the CPU's memory, on a device, for which Python does not wait: from pageable
    memory they would be copied after all that a GPU still has to do."""
    pinned = values.pin_memory() if is_accelerator(device) else values
    return pinned.to(device, non_blocking=True)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
