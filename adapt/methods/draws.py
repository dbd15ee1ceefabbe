"""Random draws of a training step: a function of the step's seed and of the samples' names alone.

Hence a step repeats exactly after a resume, and an image is changed in the same way on whichever
rank and in whichever part of an accumulated batch it stands. Draws are made on the CPU, so none
waits for the device.
"""

import hashlib
from typing import NamedTuple

import numpy as np


class Draws(NamedTuple):
    """The draws of one step; `seed` is the same on all ranks."""

    seed: int

    def of_step(self, purpose: str) -> np.random.Generator:
        """Draws that all images of the step share."""
        return np.random.default_rng((self.seed, _number(purpose)))

    def of_sample(self, purpose: str, key: str) -> np.random.Generator:
        """Draws of the one sample with this key."""
        return np.random.default_rng((self.seed, _number(purpose), _number(key)))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
