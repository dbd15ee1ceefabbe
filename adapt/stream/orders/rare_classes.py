"""Rare-class sampling (Hoyer et al., DAFormer, CVPR 2022), from the counts in the index alone."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from adapt.batch import IGNORED
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError
from adapt.stream.orders.order import Drawing, Ints, Order, OrderConfig, ScatteredOrder
from adapt.stream.orders.random_words import pair_of_words, word_of_part
from adapt.stream.orders.windows import WindowOrder


@dataclass(frozen=True)
class RareClassOrder(ScatteredOrder):
    """Each draw picks a class, rare ones more often, P(c) = softmax((1 - f_c) / temperature) with
    f_c the class's share of all labelled pixels, then one of the samples with more than
    `min_pixels` pixels of it, all alike.

    `label_pixels` (N, K) counts the pixels of each class in each sample. Classes that no sample
    shows so much of are left out. In a mixture, f_c is the mean of the parts' f_c by their
    `shares`, and the sample is of one of the parts that show the class, picked by share;
    `part_sizes` are the parts' numbers of samples, by default that of one part.
    """

    label_pixels: Ints = field(compare=False, repr=False)
    temperature: float = 0.01
    min_pixels: int = 3000
    part_sizes: tuple[int, ...] = ()
    shares: tuple[float, ...] = (1.0,)

    @classmethod
    def build(cls, drawing: Drawing, config: OrderConfig) -> Order:
        """As `Order.build`; windows, where the domain has no labels to count."""
        split, seed, domain, _ = drawing
        num_classes = max(_num_classes(part) for part in split.parts)
        if not num_classes:
            return WindowOrder.build(drawing, config)
        pixels = [part.label_pixels(num_classes) for part in split.parts]
        for part, counts in zip(split.parts, pixels, strict=True):
            _check_shown(part, counts, config.rare_class_min_pixels)
        return cls(
            split.shard_sizes,
            seed,
            domain,
            np.concatenate(pixels),
            config.rare_class_temperature,
            config.rare_class_min_pixels,
            tuple(map(len, pixels)),
            split.shares,
        )

    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""
        train_id = self.wanted_class(draw)
        members = self._samples_by_class[train_id][self._part(draw, train_id)]
        word = int(pair_of_words(self.seed, self.domain, draw)[1])
        return int(members[word * len(members) >> 64])

    def _part(self, draw: int, train_id: int) -> int:
        """The part of which the draw takes a sample that shows the class."""
        if len(self.shares) == 1:
            return 0
        having = [bool(len(members)) for members in self._samples_by_class[train_id]]
        bounds = np.cumsum(np.where(having, self.shares, 0))
        point = word_of_part(self.seed, self.domain, draw) / 2**64 * bounds[-1]
        last = int(np.flatnonzero(having)[-1])
        return min(int(np.searchsorted(bounds, point, side="right")), last)

    def wanted_class(self, draw: int) -> int:
        """The train id that the draw has picked."""
        point = int(pair_of_words(self.seed, self.domain, draw)[0]) / 2**64
        return min(int(np.searchsorted(self._bounds, point, side="right")), self._last_class)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(K,) P(c), summing to 1; 0 for classes left out."""
        kept = np.array([any(map(len, parts)) for parts in self._samples_by_class])
        pixels = np.split(self.label_pixels, self._ends[:-1])
        frequencies = sum(
            share * (counts.sum(axis=0) / counts.sum())
            for share, counts in zip(self.shares, pixels, strict=True)
        )
        rarity = (1 - frequencies) / self.temperature
        weights = np.exp(np.where(kept, rarity - rarity[kept].max(), -np.inf))
        return weights / weights.sum()

    @cached_property
    def _samples_by_class(self) -> list[list[Ints]]:
        """Class -> part -> the indices of the samples that show it."""
        shown = [np.flatnonzero(column > self.min_pixels) for column in self.label_pixels.T]
        return [np.split(one, np.searchsorted(one, self._ends[:-1])) for one in shown]

    @cached_property
    def _ends(self) -> Ints:
        """(parts,): the first sample index after each part."""
        return np.cumsum(self.part_sizes or (len(self.label_pixels),))

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        return np.cumsum(self.probabilities)

    @cached_property
    def _last_class(self) -> int:
        """The last class drawn at all: the bounds' last may be a rounding error below 1."""
        return int(np.flatnonzero(self.probabilities)[-1])


def _num_classes(split: PackedSplit) -> int:
    """How many classes the labels may show; 0 of a split opened without them."""
    table = split.id_table
    return 0 if table is None else int(table[table != IGNORED].max(initial=0)) + 1


def _check_shown(split: PackedSplit, label_pixels: Ints, least: int) -> None:
    """Raise `JobError` where no sample shows more than `least` pixels of any class."""
    most = int(label_pixels.max(initial=0))
    if most <= least:
        raise JobError(
            f"stream.rare_class_min_pixels: expected less than {most}, the most pixels that a "
            f"sample of {split.uri} shows of a class, got {least}",
            fix=f"set stream.rare_class_min_pixels below {most}",
        )
