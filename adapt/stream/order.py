"""The orders in which a stream draws its samples: pure functions of seed, stream number and what is
packed, one row of `ORDERS` each.

Draws are numbered 0, 1, 2, ... for ever. Ranks, threads, caches and arrival times have no say,
hence a stream's whole state is the number of its next draw. Random words come straight from Philox
(Salmon et al., SC 2011), whose raw output NumPy freezes; `Generator.permutation` carries no such
promise.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

LOOKAHEAD_DRAWS = 256
"""How many draws ahead shards are fetched where each draw may want another shard."""

ORDER, AUGMENTATION = 0, 1
"""What random words are for: the third word of Philox's counter, so that no two purposes share
any."""

Ints = npt.NDArray[np.int64]


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
    in turn. `planned_draws` is how many draws the job's schedule foresees. `label_pixels` (N, K)
    counts the pixels of each class in each sample, for the orders that look at them.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    stream: int
    window_shards: int = 16
    planned_draws: int = 1
    label_pixels: Ints | None = field(default=None, compare=False, repr=False)
    temperature: float = 0.01
    min_pixels: int = 3000

    random_access: ClassVar[bool]
    """Whether any draw may want any shard."""

    @cached_property
    def num_samples(self) -> int:
        """N."""
        return sum(self.shard_sizes)

    @cached_property
    def shard_ends(self) -> Ints:
        """(shards,): the first sample index after each shard."""
        return np.cumsum(self.shard_sizes)

    @abstractmethod
    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""

    @abstractmethod
    def window(self, draw: int) -> list[int]:
        """The shards that the draws around `draw` are spread over; none where that may be all."""

    @abstractmethod
    def near(self, start: int, stop: int) -> list[int]:
        """The shards that draws `start` to `stop` - 1 are spread over."""

    @abstractmethod
    def same_until(self, draw: int) -> int:
        """The first later draw at which other shards may be near or upcoming."""

    @abstractmethod
    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards that draws from `draw` on will need soon, in order of need."""

    def wanted_class(self, draw: int) -> int | None:  # noqa: ARG002, most orders want none
        """The class for whose sake the draw takes its sample, where that is the reason."""
        return None


class ScatteredOrder(Order):
    """An order in which any draw may want any shard."""

    random_access = True

    def window(self, draw: int) -> list[int]:  # noqa: ARG002, it has none
        """No shards."""
        return []

    def near(self, start: int, stop: int) -> list[int]:
        """The shards of just these draws."""
        samples = [self.sample(draw) for draw in range(start, stop)]
        shards = np.searchsorted(self.shard_ends, samples, side="right")
        return list(dict.fromkeys(shards.tolist()))

    def same_until(self, draw: int) -> int:
        """A quarter of the lookahead later, which is soon enough."""
        return draw + LOOKAHEAD_DRAWS // 4

    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards of the next `LOOKAHEAD_DRAWS` draws."""
        return self.near(draw, draw + LOOKAHEAD_DRAWS)


class WindowOrder(Order):
    """Every sample once an epoch of N draws: the shards are permuted, then the samples inside
    windows of `window_shards` shards, so that only a window's shards need be near."""

    random_access = False

    @cached_property
    def _plan(self) -> "Callable[[int], _Epoch]":
        """The plans of the last few epochs asked for."""
        return lru_cache(maxsize=4)(lambda epoch: _Epoch(self, epoch))

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        epoch, place = divmod(draw, self.num_samples)
        return int(self._plan(epoch).samples[place])

    def window(self, draw: int) -> list[int]:
        """The shards of the window that `draw` lies in, in the epoch's order."""
        epoch, place = divmod(draw, self.num_samples)
        plan = self._plan(epoch)
        return plan.windows[int(np.searchsorted(plan.ends, place, side="right"))]

    def near(self, start: int, stop: int) -> list[int]:
        """The shards of all windows that these draws lie in."""
        shards: list[int] = []
        while start < stop:
            shards += self.window(start)
            start = self._window_end(start)
        return list(dict.fromkeys(shards))

    def same_until(self, draw: int) -> int:
        """The window's end, or a while later, when memory may have room for more shards."""
        return min(self._window_end(draw), draw + LOOKAHEAD_DRAWS // 4)

    def _window_end(self, draw: int) -> int:
        """The first draw after the window that `draw` lies in."""
        epoch, place = divmod(draw, self.num_samples)
        ends = self._plan(epoch).ends
        return draw - place + int(ends[int(np.searchsorted(ends, place, side="right"))])

    def upcoming_shards(self, draw: int) -> list[int]:
        """This window's shards, then the next one's."""
        epoch, place = divmod(draw, self.num_samples)
        plan = self._plan(epoch)
        number = int(np.searchsorted(plan.ends, place, side="right"))
        last = number + 1 == len(plan.windows)
        following = self._plan(epoch + 1).windows[0] if last else plan.windows[number + 1]
        return list(dict.fromkeys([*plan.windows[number], *following]))


class PapersOrder(ScatteredOrder):
    """The list of samples ceil(planned_draws / N) times, shuffled once as a whole, then anew.

    What AdaptSegNet's and ADVENT's loaders do (GTA5: 11 x 24 966 = 274 626 draws): samples recur
    before others were seen.
    """

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        repeats = -(-self.planned_draws // self.num_samples)
        shuffle, place = divmod(draw, repeats * self.num_samples)
        return int(_multiset(self.seed, self.stream, self.num_samples, repeats, shuffle)[place])


class RareClassOrder(ScatteredOrder):
    """Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022): each draw picks a class, rare ones
    more often, P(c) = softmax((1 - f_c) / temperature) with f_c the class's share of all labelled
    pixels, then one of the samples with more than `min_pixels` pixels of it, all alike.

    Classes that no sample shows so much of are left out; without labels all samples are alike.
    """

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        members = self._samples_by_class[self._class(draw)]
        return int(members[int(_pairs_of_words(self, draw)[1]) * len(members) >> 64])

    def wanted_class(self, draw: int) -> int | None:
        """The train id that the draw has picked."""
        return None if self.label_pixels is None else self._class(draw)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(K,) P(c), summing to 1; 0 for classes left out."""
        pixels = self._label_pixels
        kept = np.array([len(members) > 0 for members in self._samples_by_class])
        rarity = (1 - pixels.sum(axis=0) / pixels.sum()) / self.temperature
        weights = np.exp(np.where(kept, rarity - rarity[kept].max(), -np.inf))
        return weights / weights.sum()

    def _class(self, draw: int) -> int:
        place = int(_pairs_of_words(self, draw)[0]) / 2**64
        return min(int(np.searchsorted(self._bounds, place, side="right")), self._last_class)

    @cached_property
    def _label_pixels(self) -> Ints:
        """(N, K), one class in every sample where there are no labels."""
        if self.label_pixels is None:
            return np.full((self.num_samples, 1), self.min_pixels + 1, np.int64)
        return self.label_pixels

    @cached_property
    def _samples_by_class(self) -> list[Ints]:
        return [np.flatnonzero(column > self.min_pixels) for column in self._label_pixels.T]

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        return np.cumsum(self.probabilities)

    @cached_property
    def _last_class(self) -> int:
        """The last class drawn at all: the bounds' last may be a rounding error below 1."""
        return int(np.flatnonzero(self.probabilities)[-1])


class _Epoch:
    """An epoch's plan: the shards of each window, the draw after each, the sample of each draw."""

    def __init__(self, order: WindowOrder, epoch: int) -> None:
        random = philox(order.seed, order.stream, ORDER, epoch)
        shards = _permutation(random.random_raw(len(order.shard_sizes))).tolist()
        starts = range(0, len(shards), order.window_shards)
        self.windows = [shards[start : start + order.window_shards] for start in starts]
        ends, sizes = order.shard_ends, order.shard_sizes
        draws = []
        for window in self.windows:
            samples = np.concatenate([np.arange(ends[s] - sizes[s], ends[s]) for s in window])
            draws.append(samples[_permutation(random.random_raw(len(samples)))])
        self.samples = np.concatenate(draws)
        self.ends = np.cumsum([len(window) for window in draws])


@lru_cache(maxsize=8)
def _multiset(seed: int, stream: int, num_samples: int, repeats: int, shuffle: int) -> np.ndarray:
    """The sample index of each draw of one shuffle, (repeats * N,)."""
    words = philox(seed, stream, ORDER, shuffle).random_raw(repeats * num_samples)
    return _permutation(words) % num_samples


_BLOCK_DRAWS = 1024


def _pairs_of_words(order: Order, draw: int) -> np.ndarray:
    """The two random words of one draw."""
    block, place = divmod(draw, _BLOCK_DRAWS)
    return _block_of_words(order.seed, order.stream, block)[place]


@lru_cache(maxsize=8)
def _block_of_words(seed: int, stream: int, block: int) -> np.ndarray:
    return philox(seed, stream, ORDER, block).random_raw(2 * _BLOCK_DRAWS).reshape(-1, 2)


Sampling = Literal["windows", "papers", "rare_classes"]

ORDERS: dict[Sampling, type[Order]] = {
    "windows": WindowOrder,
    "papers": PapersOrder,
    "rare_classes": RareClassOrder,
}
