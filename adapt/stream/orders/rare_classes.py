"""Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022), from the counts in the index alone."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from adapt.batch import IGNORED
from adapt.errors import JobError
from adapt.stream.orders.order import Drawing, Ints, Order, OrderConfig, ScatteredOrder
from adapt.stream.orders.random_words import pair_of_words
from adapt.stream.orders.windows import WindowOrder


@dataclass(frozen=True)
class RareClassOrder(ScatteredOrder):
    """Each draw picks a class, rare ones more often, P(c) = softmax((1 - f_c) / temperature) with
    f_c the class's share of all labelled pixels, then one of the samples with more than
    `min_pixels` pixels of it, all alike.

    `label_pixels` (N, K) counts the pixels of each class in each sample. Classes that no sample
    shows so much of are left out.
    """

    label_pixels: Ints = field(compare=False, repr=False)
    temperature: float = 0.01
    min_pixels: int = 3000

    @classmethod
    def build(cls, drawing: Drawing, config: OrderConfig) -> Order:
        """As `Order.build`; windows, where the domain has no labels to count."""
        split, seed, domain, _ = drawing
        if split.id_table is None:
            return WindowOrder.build(drawing, config)
        num_classes = int(split.id_table[split.id_table != IGNORED].max(initial=0)) + 1
        pixels, least = split.label_pixels(num_classes), config.rare_class_min_pixels
        most = int(pixels.max(initial=0))
        if most <= least:
            raise JobError(
                f"stream.rare_class_min_pixels: expected less than {most}, the most pixels that a "
                f"sample of {split.store.uri}/{split.split} shows of a class, got {least}",
                fix=f"set stream.rare_class_min_pixels below {most}",
            )
        temperature = config.rare_class_temperature
        return cls(split.shard_sizes, seed, domain, pixels, temperature, least)

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        members = self._samples_by_class[self.wanted_class(draw)]
        word = int(pair_of_words(self.seed, self.domain, draw)[1])
        return int(members[word * len(members) >> 64])

    def wanted_class(self, draw: int) -> int:
        """The train id that the draw has picked."""
        point = int(pair_of_words(self.seed, self.domain, draw)[0]) / 2**64
        return min(int(np.searchsorted(self._bounds, point, side="right")), self._last_class)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(K,) P(c), summing to 1; 0 for classes left out."""
        pixels = self.label_pixels
        kept = np.array([len(members) > 0 for members in self._samples_by_class])
        rarity = (1 - pixels.sum(axis=0) / pixels.sum()) / self.temperature
        weights = np.exp(np.where(kept, rarity - rarity[kept].max(), -np.inf))
        return weights / weights.sum()

    @cached_property
    def _samples_by_class(self) -> list[Ints]:
        return [np.flatnonzero(column > self.min_pixels) for column in self.label_pixels.T]

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        return np.cumsum(self.probabilities)

    @cached_property
    def _last_class(self) -> int:
        """The last class drawn at all: the bounds' last may be a rounding error below 1."""
        return int(np.flatnonzero(self.probabilities)[-1])
