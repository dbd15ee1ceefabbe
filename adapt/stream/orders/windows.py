"""Windows: every sample once an epoch, shuffled within a few shards at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from adapt.stream.orders.mixture import mixed
from adapt.stream.orders.order import LOOKAHEAD_DRAWS, Drawing, Order, OrderConfig
from adapt.stream.orders.random_words import ORDER, permutation, philox


@dataclass(frozen=True)
class WindowOrder(Order):
    """Every sample once an epoch of N draws: the shards are permuted, then the samples inside
    windows of `window_shards` shards, so that only a window's shards need be near."""

    window_shards: int = 16

    @classmethod
    def build(cls, drawing: Drawing, config: OrderConfig) -> Order:
        """As `Order.build`."""
        return mixed(
            drawing,
            lambda one: cls(one.split.shard_sizes, one.seed, one.domain, config.window_shards),
        )

    @property
    def random_access(self) -> bool:
        """Those of a window alone."""
        return False

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        epoch, position = divmod(draw, self.num_samples)
        return int(self._epoch(epoch).samples[position])

    def window(self, draw: int) -> list[int]:
        """The shards of the window that `draw` lies in, in the epoch's order."""
        epoch, position = divmod(draw, self.num_samples)
        return self._epoch(epoch).windows[self._epoch(epoch).window_of(position)]

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

    def upcoming_shards(self, draw: int) -> list[int]:
        """This window's shards, then the next one's."""
        return list(dict.fromkeys([*self.window(draw), *self.window(self._window_end(draw))]))

    def _window_end(self, draw: int) -> int:
        """The first draw after the window that `draw` lies in."""
        epoch, position = divmod(draw, self.num_samples)
        plan = self._epoch(epoch)
        return draw - position + int(plan.ends[plan.window_of(position)])

    @cached_property
    def _epoch(self) -> "Callable[[int], _Epoch]":
        """The last few epochs asked for."""
        return lru_cache(maxsize=4)(lambda epoch: _Epoch(self, epoch))


class _Epoch:
    """The shards of each window, the draw after each, the sample of each draw."""

    def __init__(self, order: WindowOrder, epoch: int) -> None:
        random = philox(order.seed, order.domain, ORDER, epoch)
        shards = permutation(random.random_raw(len(order.shard_sizes))).tolist()
        starts = range(0, len(shards), order.window_shards)
        self.windows = [shards[start : start + order.window_shards] for start in starts]
        ends, sizes = order.shard_ends, order.shard_sizes
        draws = []
        for window in self.windows:
            samples = np.concatenate([np.arange(ends[s] - sizes[s], ends[s]) for s in window])
            draws.append(samples[permutation(random.random_raw(len(samples)))])
        self.samples = np.concatenate(draws)
        self.ends = np.cumsum([len(window) for window in draws])

    def window_of(self, position: int) -> int:
        """The window of the epoch's draw number `position`."""
        return int(np.searchsorted(self.ends, position, side="right"))
