"""The papers' order: what the loaders of AdaptSegNet and ADVENT draw."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from adapt.stream.orders.mixture import mixed
from adapt.stream.orders.order import Drawing, Order, OrderConfig, ScatteredOrder
from adapt.stream.orders.random_words import ORDER, permutation, philox


@dataclass(frozen=True)
class PapersOrder(ScatteredOrder):
    """The list of samples ceil(planned_draws / N) times, shuffled once as a whole, then anew.

    What AdaptSegNet's and ADVENT's loaders do (GTA5: 11 x 24 966 = 274 626 draws): samples recur
    before others were seen.
    """

    planned_draws: int = 1

    @classmethod
    def build(cls, drawing: Drawing, config: OrderConfig) -> Order:  # noqa: ARG003, it has none
        """As `Order.build`."""
        return mixed(
            drawing, lambda one: cls(one.split.shard_sizes, one.seed, one.domain, one.planned_draws)
        )

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        repeats = -(-self.planned_draws // self.num_samples)
        shuffle, position = divmod(draw, repeats * self.num_samples)
        return int(_multiset(self.seed, self.domain, self.num_samples, repeats, shuffle)[position])


@lru_cache(maxsize=8)
def _multiset(seed: int, domain: int, num_samples: int, repeats: int, shuffle: int) -> np.ndarray:
    """The sample index of each draw of one shuffle, (repeats * N,)."""
    words = philox(seed, domain, ORDER, shuffle).random_raw(repeats * num_samples)
    return permutation(words) % num_samples
