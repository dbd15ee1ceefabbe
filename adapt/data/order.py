"""The order in which a stream draws its samples: a pure function of seed, stream number and shard
sizes.

Draws are numbered 0, 1, 2, ... for ever; draw i belongs to epoch i // N. An epoch permutes the
shards and then the samples inside windows of `window_shards` shards, so that only a window's shards
need be near. Ranks, threads, caches and arrival times have no say, hence a stream's whole state is
the number of its next draw. Random words come straight from Philox (Salmon et al., SC 2011), whose
raw output NumPy freezes; `Generator.permutation` carries no such promise.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

ORDER, AUGMENTATION = 0, 1
"""What random words are for: the third word of Philox's counter, so that no two purposes share
any."""


def philox(seed: int, stream: int, purpose: int, counter: int) -> np.random.Philox:
    """The counter-based generator of one purpose at one place, without any state kept in
    between."""
    return np.random.Philox(key=[seed, stream], counter=[0, 0, purpose, counter])


def _permutation(words: np.ndarray) -> np.ndarray:
    return np.argsort(words, kind="stable")


@dataclass(frozen=True)
class Order:
    """Draw number -> sample index, for one domain.

    `shard_sizes` holds the number of samples of each shard; sample indices count through the shards
    in turn.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    stream: int
    window_shards: int = 16

    @property
    def num_samples(self) -> int:
        """N, the draws of one epoch; every sample is drawn once in it."""
        return sum(self.shard_sizes)

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        epoch, place = divmod(draw, self.num_samples)
        return int(_epoch(self, epoch)[1][place])

    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards that draws from `draw` on will need, in order of need: this window's, then the
        next one's."""
        epoch, place = divmod(draw, self.num_samples)
        shards = [*_epoch(self, epoch)[0], *_epoch(self, epoch + 1)[0]]
        ends = np.cumsum([self.shard_sizes[shard] for shard in shards])
        first = int(np.searchsorted(ends, place, side="right")) // self.window_shards
        start = first * self.window_shards
        return list(dict.fromkeys(shards[start : start + 2 * self.window_shards]))


@lru_cache(maxsize=8)
def _epoch(order: Order, epoch: int) -> tuple[list[int], np.ndarray]:
    """The shards of an epoch in order, and the sample index of each of its draws (N,)."""
    random = philox(order.seed, order.stream, ORDER, epoch)
    shards = _permutation(random.random_raw(len(order.shard_sizes))).tolist()
    starts = np.concatenate([[0], np.cumsum(order.shard_sizes)])
    draws = []
    for first in range(0, len(shards), order.window_shards):
        window = shards[first : first + order.window_shards]
        samples = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in window])
        draws.append(samples[_permutation(random.random_raw(len(samples)))])
    return shards, np.concatenate(draws)
