"""Draws of several datasets, each with its share, interleaved as evenly as whole draws allow.

Dataset p with share w takes its draw number n = 0, 1, ... at time (n + 1/2) / w, and the draws of
all are numbered by time: no random word decides, so every stretch of draws has its shares within
one draw or two, each dataset keeps its own order, and draw 10^6 is found without the draws before.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from adapt.stream.orders.order import Drawing, Ints, Order, OrderConfig

BLOCK_DRAWS = 1024


def mixed(drawing: Drawing, build: Callable[[Drawing], Order]) -> Order:
    """The order of a split by `build`, or of a mixture by the orders that `build` makes of its
    parts."""
    orders = tuple(build(one) for one in drawing.parts())
    if len(orders) == 1:
        return orders[0]
    split = drawing.split
    return MixtureOrder(split.shard_sizes, drawing.seed, drawing.domain, orders, split.shares)


@dataclass(frozen=True)
class MixtureOrder(Order):
    """Draws of `orders`, each of one dataset, by their `shares`."""

    orders: tuple[Order, ...]
    shares: tuple[float, ...]

    @classmethod
    def build(cls, drawing: Drawing, config: OrderConfig) -> Order:
        """The orders of its parts build it, by `mixed`."""
        raise NotImplementedError

    @property
    def random_access(self) -> bool:
        """As the orders of the parts."""
        return any(order.random_access for order in self.orders)

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        before = self.draws_before(draw)
        part = int(np.argmax(self.draws_before(draw + 1) - before))
        first = sum(order.num_samples for order in self.orders[:part])
        return first + self.orders[part].sample(int(before[part]))

    def near(self, start: int, stop: int) -> list[int]:
        """The shards that draws `start` to `stop` - 1 are spread over."""
        ranges = zip(
            self.draws_before(start).tolist(), self.draws_before(stop).tolist(), strict=True
        )
        return self._shards(
            order.near(*own) if own[0] < own[1] else []
            for order, own in zip(self.orders, ranges, strict=True)
        )

    def same_until(self, draw: int) -> int:
        """No part's shards change before, since each takes at most one of these draws a draw."""
        own = zip(self.orders, self.draws_before(draw).tolist(), strict=True)
        return draw + min(order.same_until(before) - before for order, before in own)

    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards that each part needs soon, one part after the other."""
        own = zip(self.orders, self.draws_before(draw).tolist(), strict=True)
        return self._shards(order.upcoming_shards(before) for order, before in own)

    def draws_before(self, draw: int) -> Ints:
        """(parts,): how many of the draws before `draw` are each part's."""
        block, offset = divmod(draw, BLOCK_DRAWS)
        return self._counts(block)[offset]

    def _shards(self, by_part: Iterable[list[int]]) -> list[int]:
        """Shards of the parts, numbered through the parts."""
        firsts = np.cumsum([0, *(len(order.shard_sizes) for order in self.orders)]).tolist()
        return [
            first + shard
            for first, shards in zip(firsts, by_part, strict=False)
            for shard in shards
        ]

    @cached_property
    def _counts(self) -> "Callable[[int], Ints]":
        """The last few blocks asked for."""
        return lru_cache(maxsize=8)(lambda block: _draws_before(self.shares, block * BLOCK_DRAWS))


def _draws_before(shares: tuple[float, ...], start: int) -> Ints:
    """(BLOCK_DRAWS, parts): each part's draws before draw `start`, before the next one, and so
    on."""
    weights, margin = np.array(shares), 2 * len(shares)  # a part is at most a draw off its share
    first = _taken(weights, max(0, start - margin))
    last = _taken(weights, start + BLOCK_DRAWS + margin)
    parts = np.repeat(np.arange(len(shares)), last - first)
    numbers = np.concatenate([np.arange(*span) for span in zip(first, last, strict=True)])
    by_time = parts[np.lexsort((parts, (numbers + 0.5) / weights[parts]))]
    taken = np.cumsum(by_time[:, None] == np.arange(len(shares)), axis=0)
    counts = first + np.concatenate([np.zeros((1, len(shares)), np.int64), taken])
    skipped = start - int(first.sum())
    return counts[skipped : skipped + BLOCK_DRAWS]


def _taken(weights: np.ndarray, time: int) -> Ints:
    """(parts,): draws of each part that lie before `time`."""
    return np.maximum(0, np.ceil(weights * time - 0.5)).astype(np.int64)
