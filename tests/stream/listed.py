"""Splits that exist in memory alone: sizes, counts of labels, and samples that are their own
numbers."""

import hashlib
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch

from adapt.batch import Sample
from adapt.stream.config import StreamConfig
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.orders.order import Drawing, Order

NUM_CLASSES = 4


def built(
    sampling: Sampling,
    split: "ListedSplit",
    seed: int,
    domain: int,
    planned_draws: int = 1,
    window_shards: int = 16,
) -> Order:
    """The order of one row, as a stream builds it."""
    config = StreamConfig(sampling=sampling, window_shards=window_shards)
    drawing = Drawing(split, seed, domain, planned_draws)  # type: ignore[arg-type]
    return ORDERS[sampling].build(drawing, config)


def class_pixels(num_samples: int) -> np.ndarray:
    """(N, K) pixels of each class, the later classes rarer; no generator whose words may change."""
    places = np.arange(num_samples * NUM_CLASSES).reshape(-1, NUM_CLASSES)
    shows = places * 7919 % 11 < [11, 7, 4, 2]
    return np.where(shows, 3001 + places * 104_729 % 90_001, 0).astype(np.int64)


class ListedSplit:
    """A split whose samples are their own numbers; it notes reads from shards nobody wants."""

    def __init__(self, shard_sizes: tuple[int, ...]) -> None:
        self.shard_sizes = shard_sizes
        self.id_table = np.minimum(np.arange(256), NUM_CLASSES - 1).astype(np.uint8)
        self.manifest = SimpleNamespace(dataset_id=hashlib.sha256(b"listed").hexdigest())
        self.uri, self.dataset_id = "file:///listed/train", self.manifest.dataset_id
        self.parts, self.shares = (self,), (1.0,)
        self.ends = np.cumsum(shard_sizes)
        self.wanted: set[int] = set()
        self.unwanted_reads: list[int] = []
        self.lock = threading.Lock()
        self.random_access = False

    def label_pixels(self, num_classes: int) -> np.ndarray:
        """(N, K)"""
        return class_pixels(int(self.ends[-1]))[:, :num_classes]

    def want(self, shards: Sequence[int], side_by_side: int = 1) -> None:
        """The shards to keep."""
        with self.lock:
            self.wanted = set(shards)

    def read(self, sample: int) -> Sample:
        """One pixel that holds the sample's number."""
        with self.lock:
            if int(np.searchsorted(self.ends, sample, side="right")) not in self.wanted:
                self.unwanted_reads.append(sample)
        number = torch.tensor([sample // 256, sample % 256, 7], dtype=torch.uint8)
        return Sample(number.view(3, 1, 1), torch.zeros(1, 1, dtype=torch.uint8))

    def decoded_bytes(self, sample: int) -> int:
        """Of one pixel and its label."""
        return 4

    def __len__(self) -> int:
        return int(self.ends[-1])

    def part_of(self, sample: int) -> int:
        """There is one part."""
        return 0

    def key(self, sample: int) -> str:
        """The sample's number."""
        return str(sample)

    def name(self, sample: int) -> str:
        """For messages."""
        return str(sample)

    def close(self) -> None:
        """Nothing is open."""


class PlainSplit(ListedSplit):
    """Every sample shows one class, all alike."""

    def __init__(self, shard_sizes: tuple[int, ...]) -> None:
        super().__init__(shard_sizes)
        self.id_table = np.zeros(256, np.uint8)

    def label_pixels(self, num_classes: int) -> np.ndarray:
        """(N, 1)"""
        return np.full((int(self.ends[-1]), 1), 3001, np.int64)
