"""Random words for orders and augmentation, straight from Philox (Salmon et al., SC 2011).

NumPy freezes Philox's raw output; `Generator.permutation` carries no such promise.
"""

from functools import lru_cache

import numpy as np

ORDER, AUGMENTATION, PART = 0, 1, 2
"""Purposes of random words: the third word of Philox's counter, so that no two purposes share
any."""

_BLOCK_DRAWS = 1024


def philox(seed: int, domain: int, purpose: int, counter: int) -> np.random.Philox:
    """The counter-based generator of one purpose at one position, without any state kept in
    between."""
    return np.random.Philox(key=[seed, domain], counter=[0, 0, purpose, counter])


def permutation(words: np.ndarray) -> np.ndarray:
    """Random words (N,) -> a permutation of 0 to N - 1."""
    return np.argsort(words, kind="stable")


def pair_of_words(seed: int, domain: int, draw: int) -> np.ndarray:
    """The two random words of one draw, (2,) uint64."""
    block, offset = divmod(draw, _BLOCK_DRAWS)
    return _block_of_words(seed, domain, block)[offset]


def word_of_part(seed: int, domain: int, draw: int) -> int:
    """The random word by which a draw from several datasets picks one."""
    block, offset = divmod(draw, _BLOCK_DRAWS)
    return int(_words_of_parts(seed, domain, block)[offset])


@lru_cache(maxsize=8)
def _block_of_words(seed: int, domain: int, block: int) -> np.ndarray:
    return philox(seed, domain, ORDER, block).random_raw(2 * _BLOCK_DRAWS).reshape(-1, 2)


@lru_cache(maxsize=8)
def _words_of_parts(seed: int, domain: int, block: int) -> np.ndarray:
    return philox(seed, domain, PART, block).random_raw(_BLOCK_DRAWS)
