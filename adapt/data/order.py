"""The orders in which a stream draws its samples: pure functions of seed, stream number and shard
sizes, one row of `ORDERS` each.

Draws are numbered 0, 1, 2, ... for ever. Ranks, threads, caches and arrival times have no say,
hence a stream's whole state is the number of its next draw. Random words come straight from Philox
(Salmon et al., SC 2011), whose raw output NumPy freezes; `Generator.permutation` carries no such
promise.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

LOOKAHEAD_DRAWS = 256
"""How many of the papers' draws ahead shards are fetched: each draw may want another shard."""

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
class Order(ABC):
    """Draw number -> sample index, for one domain.

    `shard_sizes` holds the number of samples of each shard; sample indices count through the shards
    in turn. `planned_draws` is how many draws the job's schedule foresees.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    stream: int
    window_shards: int = 16
    planned_draws: int = 1

    @cached_property
    def num_samples(self) -> int:
        """N."""
        return sum(self.shard_sizes)

    @abstractmethod
    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""

    @abstractmethod
    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards that draws from `draw` on will need soon, in order of need."""


class WindowOrder(Order):
    """Every sample once an epoch of N draws: the shards are permuted, then the samples inside
    windows of `window_shards` shards, so that only a window's shards need be near."""

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        epoch, place = divmod(draw, self.num_samples)
        return int(_epoch(self, epoch)[1][place])

    def upcoming_shards(self, draw: int) -> list[int]:
        """This window's shards, then the next one's."""
        epoch, place = divmod(draw, self.num_samples)
        shards = [*_epoch(self, epoch)[0], *_epoch(self, epoch + 1)[0]]
        ends = np.cumsum([self.shard_sizes[shard] for shard in shards])
        first = int(np.searchsorted(ends, place, side="right")) // self.window_shards
        start = first * self.window_shards
        return list(dict.fromkeys(shards[start : start + 2 * self.window_shards]))


class PapersOrder(Order):
    """The list of samples ceil(planned_draws / N) times, shuffled once as a whole, then anew.

    What AdaptSegNet's and ADVENT's loaders do (GTA5: 11 x 24 966 = 274 626 draws): samples recur
    before others were seen.
    """

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        repeats = -(-self.planned_draws // self.num_samples)
        shuffle, place = divmod(draw, repeats * self.num_samples)
        return int(_multiset(self.seed, self.stream, self.num_samples, repeats, shuffle)[place])

    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards of the next `LOOKAHEAD_DRAWS` draws."""
        samples = [self.sample(later) for later in range(draw, draw + LOOKAHEAD_DRAWS)]
        shards = np.searchsorted(np.cumsum(self.shard_sizes), samples, side="right")
        return list(dict.fromkeys(shards.tolist()))


@lru_cache(maxsize=8)
def _epoch(order: WindowOrder, epoch: int) -> tuple[list[int], np.ndarray]:
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


@lru_cache(maxsize=8)
def _multiset(seed: int, stream: int, num_samples: int, repeats: int, shuffle: int) -> np.ndarray:
    """The sample index of each draw of one shuffle, (repeats * N,)."""
    words = philox(seed, stream, ORDER, shuffle).random_raw(repeats * num_samples)
    return _permutation(words) % num_samples


Sampling = Literal["windows", "papers"]

ORDERS: dict[Sampling, type[Order]] = {"windows": WindowOrder, "papers": PapersOrder}
"""`stream.sampling` -> how samples are ordered."""
