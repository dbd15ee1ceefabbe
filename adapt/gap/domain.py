"""The images of a domain that are compared: some of each of its datasets, evenly spread over the
packed order, which is a shuffle."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adapt.batch import Sample
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import DataError
from adapt.evaluation.inference import decoded
from adapt.spec.job_spec import JobSpec
from adapt.stream.config import DomainConfig
from adapt.trainer.opening import open_split
from storage.shards.cache import ShardCache
from storage.stores import Stores

FEWEST = 10
"""Images of a domain below which no distance means anything."""


class Drawn(NamedTuple):
    """Some samples of a packed split, by number."""

    split: PackedSplit
    numbers: tuple[int, ...]


class Domain(NamedTuple):
    """The samples of a domain that are compared; `key` is its section in the spec."""

    key: str
    parts: tuple[Drawn, ...]

    @property
    def num_images(self) -> int:
        """Those that are compared."""
        return sum(len(part.numbers) for part in self.parts)

    @property
    def num_samples(self) -> int:
        """Those that the domain has."""
        return sum(len(part.split) for part in self.parts)

    @property
    def name(self) -> str:
        """Its datasets."""
        names = dict.fromkeys(part.split.manifest.dataset for part in self.parts)
        return " and ".join(names)

    @property
    def image_hw(self) -> tuple[int, int]:
        """The size of its first image, as networks see it."""
        split, numbers = self.parts[0]
        index, first = split.index, numbers[0]
        return split.size_hw or (int(index.height_px[first]), int(index.width_px[first]))

    def samples(self, threads: int) -> Iterator[Sample]:
        """All of them, in order."""
        for split, numbers in self.parts:
            for _, sample in decoded(split, numbers, threads):
                yield sample

    def at(self, place: int) -> tuple[str, Sample]:
        """Key and content of the sample at a place of that order."""
        for split, numbers in self.parts:
            if place < len(numbers):
                return split.key(numbers[place]), split.read(numbers[place])
            place -= len(numbers)
        raise AssertionError("there is no such sample")

    def label_pixels(self, num_classes: int) -> Tensor:
        """Pixels of each class in all labels of the domain, (K,) int64, from the index alone."""
        counted = [part.split.label_pixels(num_classes).sum(axis=0) for part in self.parts]
        return torch.from_numpy(np.sum(counted, axis=0))


def open_domain(
    job: JobSpec,
    key: str,
    stores: Stores,
    cache: ShardCache,
    count: int,
    stack: ExitStack,
    labelled: bool,
) -> Domain:
    """`count` images of a domain, or all where it has fewer; of several datasets by their weights.

    They are closed by `stack`. Raises as `open_split`, and `DataError` for fewer than ten.
    """
    sections = job.datasets(key)
    parts = []
    for section, share in zip(sections.values(), shares_of(sections), strict=True):
        split = open_split(job, section, stores, cache, labelled)
        stack.callback(split.close)
        wanted = min(len(split), max(1, round(count * share)))
        numbers = np.linspace(0, len(split) - 1, wanted).round().astype(int).tolist()
        parts.append(Drawn(split, tuple(numbers)))
    domain = Domain(key, tuple(parts))
    if domain.num_images < FEWEST:
        raise DataError(
            f"{key}: expected at least {FEWEST} images to compare, got {domain.num_images}",
            "pack more, or raise --count",
        )
    return domain


def shares_of(sections: Mapping[str, DomainConfig]) -> list[float]:
    """The datasets' shares of the images."""
    total = sum(section.weight for section in sections.values())
    return [section.weight / total for section in sections.values()]
