"""Several packed splits read as one, each with its share of the draws.

Samples and shards are numbered through the splits in turn. Which split a draw comes from is the
matter of the order (`adapt.stream.orders`); readers of a sample by its number need not know it.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from adapt.batch import Sample
from adapt.data.packed.packed_split import PackedSplit


class Mixture:
    """Random access to the samples of two splits or more.

    `weights` are positive; `shares` are the weights over their sum.
    """

    def __init__(self, parts: Sequence[PackedSplit], weights: Sequence[float]) -> None:
        self.parts = tuple(parts)
        self.shares = tuple(weight / sum(weights) for weight in weights)
        sizes, shards = [len(part) for part in parts], [len(part.shard_sizes) for part in parts]
        self._first_samples = [0, *accumulate(sizes)]
        self._first_shards = [0, *accumulate(shards)]

    def __len__(self) -> int:
        return self._first_samples[-1]

    @property
    def uri(self) -> str:
        """The places of all, for messages."""
        return " and ".join(part.uri for part in self.parts)

    @property
    def dataset_id(self) -> str:
        """sha256 of the parts' ids and shares: equal for equal bytes drawn alike."""
        ids = [
            [part.dataset_id, share] for part, share in zip(self.parts, self.shares, strict=True)
        ]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of samples of each shard."""
        return tuple(size for part in self.parts for size in part.shard_sizes)

    @property
    def random_access(self) -> bool:
        """As `PackedSplit.random_access`, of all."""
        return all(part.random_access for part in self.parts)

    @random_access.setter
    def random_access(self, wanted: bool) -> None:
        for part in self.parts:
            part.random_access = wanted

    def label_pixels(self, num_classes: int) -> npt.NDArray[np.float64]:
        """Pixels of each class in each sample's label, (N, K) float64, scaled so that a split
        counts by its share, not by its number of samples. Raises as `PackedSplit.label_pixels`."""
        return np.concatenate(
            [
                part.label_pixels(num_classes) * (share * len(self) / len(part))
                for part, share in zip(self.parts, self.shares, strict=True)
            ]
        )

    def want(self, shards: Sequence[int], side_by_side: int = 1) -> None:
        """As `PackedSplit.want`."""
        for number, part in enumerate(self.parts):
            first, stop = self._first_shards[number : number + 2]
            own = [place for place, shard in enumerate(shards) if first <= shard < stop]
            near = sum(place < side_by_side for place in own)
            part.want([shards[place] - first for place in own], near)

    def part_of(self, sample: int) -> int:
        """The number of the split that the sample is of."""
        return int(np.searchsorted(self._first_samples, sample, side="right")) - 1

    def read(self, sample: int) -> Sample:
        """As `PackedSplit.read`."""
        part, number = self._located(sample)
        return part.read(number)

    def decoded_bytes(self, sample: int) -> int:
        """As `PackedSplit.decoded_bytes`."""
        part, number = self._located(sample)
        return part.decoded_bytes(number)

    def key(self, sample: int) -> str:
        """As `PackedSplit.key`."""
        part, number = self._located(sample)
        return part.key(number)

    def name(self, sample: int) -> str:
        """As `PackedSplit.name`."""
        part, number = self._located(sample)
        return part.name(number)

    def close(self) -> None:
        """Stop fetching and release the shards of all."""
        for part in self.parts:
            part.close()

    def _located(self, sample: int) -> tuple[PackedSplit, int]:
        part = self.part_of(sample)
        return self.parts[part], sample - self._first_samples[part]
