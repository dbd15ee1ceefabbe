"""A perceptual hash of 64 bits: images that look alike have hashes of few different bits.

pHash (Zauner, 2010): the 8 x 8 lowest frequencies of a 32 x 32 grey image's cosine transform, each
above or below their median. (The library imagehash does the same with SciPy and PyWavelets, two
packages that a job needs for nothing else.)
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE_PX = 32
LOW = 8

_PLACES = np.arange(SIDE_PX)
_COSINES = np.cos(np.pi * _PLACES[:LOW, None] * (2 * _PLACES + 1) / (2 * SIDE_PX))
"""(8, 32): the lowest rows of the type-II cosine transform, without its factors."""


def perceptual_hash(grey: Image.Image) -> int:
    """A grey image -> its hash."""
    small = grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: Mapping[str, int], most_bits: int) -> dict[str, tuple[str, int]]:
    """key -> an earlier key, in order, whose hash differs in at most so many bits, and how many.
    Of a group of images that look alike the first has no entry."""
    keys = list(hashes)
    values = np.array([hashes[key] for key in keys], np.uint64)
    found: dict[str, tuple[str, int]] = {}
    kept: npt.NDArray[np.intp] = np.empty(0, np.intp)
    for number, key in enumerate(keys):
        bits = np.bitwise_count(values[kept] ^ values[number])
        if len(bits) and bits.min() <= most_bits:
            nearest = int(bits.argmin())
            found[key] = keys[int(kept[nearest])], int(bits[nearest])
        else:
            kept = np.append(kept, number)
    return found
