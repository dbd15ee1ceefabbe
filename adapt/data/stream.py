"""A domain's endless stream of batches: draws in plan order, decoded by threads, ready before they
are asked for.

Decoding runs in threads of the rank's own process, since every decoder here releases the GIL and
moving tensors between DataLoader workers costs as much as the decoding itself. A stream's state is
one integer, the number of its next draw. Normalisation happens on the device, from uint8.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from adapt.batch import Batch, PixelFormat
from adapt.data.augment import AugmentConfig, Sample, augment
from adapt.data.order import AUGMENTATION, Order, philox
from adapt.data.packed import PackedSplit, SplitConfig
from adapt.errors import DataError
from adapt.section import Section


class StreamConfig(Section):
    """How samples are fetched and decoded; changes the speed, never the samples (but for
    `window_shards`)."""

    threads: int = Field(2, ge=1, description="Decoding threads a rank.")
    prefetch_batches: int = Field(
        3, ge=1, description="Batches kept ready ahead of the training step."
    )
    window_shards: int = Field(16, ge=1, description="Shards whose samples are shuffled together.")
    cache_gb: float | None = Field(
        None,
        gt=0,
        description="Limit of the node's shard cache in 10^9 bytes; none: what the disk gives.",
    )


class DomainConfig(SplitConfig):
    """A domain to train on."""

    batch_size: int = Field(1, ge=1, description="Samples of this domain a step, over all ranks.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes of the samples.")


class HostBatch(NamedTuple):
    """Decoded samples in host memory: `images` (B, 3, H, W) uint8, `labels` (B, H, W) uint8 or
    None."""

    images: Tensor
    labels: Tensor | None
    keys: tuple[str, ...]


class Stream:
    """Iterates over this rank's part of the global batches of one domain, for ever.

    `batch_size` is the global one; each rank takes `batch_size / num_ranks` draws of every batch.
    `draw` is the stream's state: the first draw no batch has been handed out for. `wait_s` sums the
    time `next` had to wait.
    """

    def __init__(
        self,
        split: PackedSplit,
        *,
        seed: int,
        stream: int,
        batch_size: int,
        augmentation: AugmentConfig,
        config: StreamConfig,
        rank: int = 0,
        num_ranks: int = 1,
        draw: int = 0,
    ) -> None:
        assert batch_size % num_ranks == 0, "checked when the job starts"
        self.split, self.augmentation, self.batch_size = split, augmentation, batch_size
        self.seed, self.stream = seed, stream
        self.order = Order(split.shard_sizes, seed, stream, config.window_shards)
        self.rank_size = batch_size // num_ranks
        self.rank_start = rank * self.rank_size
        self.draw = self._planned = draw
        self.wait_s = 0.0
        self._prefetch_batches = config.prefetch_batches
        self._ready: deque[list[Future[tuple[str, Sample]]]] = deque()
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="decode")

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> HostBatch:
        while len(self._ready) <= self._prefetch_batches:
            self._plan_batch()
        started_s = time.perf_counter()
        decoded = [future.result() for future in self._ready.popleft()]
        self.wait_s += time.perf_counter() - started_s
        self.draw += self.batch_size
        return _collate(decoded, self.split)

    def close(self) -> None:
        """Drop what was planned and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.split.close()

    def _plan_batch(self) -> None:
        start = self._planned + self.rank_start
        self.split.fetch_ahead(self.order.upcoming_shards(self._planned))
        draws = range(start, start + self.rank_size)
        self._ready.append([self._pool.submit(self._decode, draw) for draw in draws])
        self._planned += self.batch_size

    def _decode(self, draw: int) -> tuple[str, Sample]:
        sample = self.order.sample(draw)
        random = np.random.Generator(philox(self.seed, self.stream, AUGMENTATION, draw))
        return self.split.key(sample), augment(self.split.read(sample), self.augmentation, random)


def _collate(decoded: list[tuple[str, Sample]], split: PackedSplit) -> HostBatch:
    keys, samples = zip(*decoded, strict=True)
    sizes = {tuple(sample.image.shape[-2:]) for sample in samples}
    if len(sizes) > 1:
        raise DataError(
            f"{split.store.uri}/{split.split}: a batch holds images of different sizes "
            f"{sorted(sizes)} ({', '.join(keys)}): set size_hw, or augment.crop_hw"
        )
    labels = None
    if split.id_table is not None:
        labels = torch.stack([sample.labels for sample in samples])
    return HostBatch(torch.stack([sample.image for sample in samples]), labels, tuple(keys))


def to_device(batch: HostBatch, pixels: PixelFormat, device: torch.device) -> Batch:
    """Move a batch to the device and normalise it there for the network: uint8 -> `Batch`."""
    pin = device.type == "cuda"
    images = (batch.images.pin_memory() if pin else batch.images).to(device, non_blocking=pin)
    labels = batch.labels
    if labels is not None:
        labels = (labels.pin_memory() if pin else labels).to(device, non_blocking=pin).long()
    return Batch(normalise(images, pixels), labels, batch.keys)


def normalise(images: Tensor, pixels: PixelFormat) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> float32 as `pixels` says: RGB / 255 or BGR, minus mean, over
    deviation."""
    mean = torch.tensor(pixels.mean, device=images.device).view(3, 1, 1)
    deviation = torch.tensor(pixels.std, device=images.device).view(3, 1, 1)
    ordered = images.flip(1).float() if pixels.bgr else images.float() / 255
    return (ordered - mean) / deviation
