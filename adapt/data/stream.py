"""A domain's endless stream of batches: draws in plan order, decoded by threads, ready before they
are asked for.

Decoding runs in threads of the rank's own process, since every decoder here releases the GIL and
moving tensors between DataLoader workers costs as much as the decoding itself. A stream's state is
one integer, the number of its next draw: a bad sample, where it is skipped, is replaced by that of
the next draw, whatever was skipped before. Normalisation happens on the device, from uint8.
"""

import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from adapt.batch import Batch, PixelFormat
from adapt.data.augment import AugmentConfig, Sample, augment
from adapt.data.order import AUGMENTATION, ORDERS, Sampling, philox
from adapt.data.packed import PackedSplit, SplitConfig
from adapt.errors import DataError
from adapt.section import Section

log = logging.getLogger(__name__)

TRIES = {"error": 1, "skip": 100}
"""`stream.on_bad_sample` -> how many samples in a row are tried for a draw."""


class StreamConfig(Section):
    """How samples are drawn, fetched and decoded; what does not say otherwise changes the speed
    alone, never the samples."""

    threads: int = Field(2, ge=1, description="Decoding threads a rank.")
    prefetch_batches: int = Field(
        3, ge=1, description="Batches kept ready ahead of the training step."
    )
    sampling: Sampling = Field(
        "windows",
        description="The order of the samples. windows: each once an epoch, shuffled within "
        "window_shards shards. papers: as the loaders of AdaptSegNet and ADVENT, the list "
        "ceil(schedule x batch_size / samples) times, shuffled once as a whole, so that samples "
        "recur before others were seen; any draw may want any shard, hence the whole data set has "
        "to fit on the node's disk and comes there at once.",
    )
    window_shards: int = Field(
        16,
        ge=1,
        description="Shards whose samples are shuffled together (sampling: windows); another "
        "number is another order.",
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        "error",
        description="What a training sample that cannot be decoded, or whose label is of another "
        "size than its image, does: error ends the job; skip takes the sample of the next draw "
        "instead, names it once in a warning and counts it.",
    )
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


class Decoded(NamedTuple):
    """One draw's sample under its key, and what was wrong with each sample skipped for it, by
    name."""

    key: str
    sample: Sample
    skipped: dict[str, str]


class Stream:
    """Iterates over this rank's part of the global batches of one domain, for ever.

    `batch_size` is the global one; each rank takes `batch_size / num_ranks` draws of every batch.
    `draw` is the stream's state: the first draw no batch has been handed out for. `planned_draws`
    is how many the job's schedule foresees. `wait_s` sums the time `next` had to wait,
    `bad_samples` how often a bad sample was skipped in this rank's batches, both since this stream
    was made.

    `next` raises `StoreError` where a shard cannot be had, `DataError` for a bad sample, by name.
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
        planned_draws: int = 1,
    ) -> None:
        assert batch_size % num_ranks == 0, "checked when the job starts"
        self.split, self.augmentation, self.batch_size = split, augmentation, batch_size
        self.seed, self.stream = seed, stream
        order = ORDERS[config.sampling]
        self.order = order(split.shard_sizes, seed, stream, config.window_shards, planned_draws)
        self.rank_size = batch_size // num_ranks
        self.rank_start = rank * self.rank_size
        self.draw = self._planned = draw
        self.wait_s = 0.0
        self.bad_samples = 0
        self._tries = TRIES[config.on_bad_sample]
        self._named: set[str] = set()
        self._prefetch_batches = config.prefetch_batches
        self._ready: deque[list[Future[Decoded]]] = deque()
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
        self._report(decoded)
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

    def _decode(self, draw: int) -> Decoded:
        skipped: dict[str, str] = {}
        for candidate in range(draw, draw + self._tries):
            number = self.order.sample(candidate)
            try:
                sample = _read(self.split, number)
            except DataError as error:
                skipped[self.split.name(number)] = str(error)
                continue
            random = np.random.Generator(philox(self.seed, self.stream, AUGMENTATION, draw))
            changed = augment(sample, self.augmentation, random)
            return Decoded(self.split.key(number), changed, skipped)
        raise self._refusal(list(skipped.values()))

    def _refusal(self, faults: list[str]) -> DataError:
        if self._tries == 1:
            return DataError(f"{faults[0]}; to train without it, set stream.on_bad_sample: skip")
        return DataError(
            f"{self._tries} draws in a row met bad samples only, {len(faults)} of them; the first: "
            f"{faults[0]}"
        )

    def _report(self, decoded: list[Decoded]) -> None:
        for name, fault in (item for one in decoded for item in one.skipped.items()):
            self.bad_samples += 1
            if name not in self._named:
                self._named.add(name)
                log.warning("skipped a bad sample: %s", fault)


def _read(split: PackedSplit, number: int) -> Sample:
    """One sample to train on. Raises as `PackedSplit.read`, and `DataError` where its label does
    not cover its image."""
    sample = split.read(number)
    if sample.labels is not None and sample.labels.shape != sample.image.shape[-2:]:
        raise DataError(
            f"{split.name(number)}: its label is {list(sample.labels.shape)} pixels (height, "
            f"width), its image {list(sample.image.shape[-2:])}: pack the split at size_hw, as "
            "labels of originals are not resized"
        )
    return sample


def _collate(decoded: list[Decoded], split: PackedSplit) -> HostBatch:
    keys, samples, _ = zip(*decoded, strict=True)
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
    mean, deviation = _constants(pixels, images.device)
    ordered = images.flip(1).float() if pixels.bgr else images.float() / 255
    return (ordered - mean) / deviation


@cache
def _constants(pixels: PixelFormat, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3, 1, 1) on the device; sending them each time would make a GPU wait."""
    mean, deviation = (torch.tensor(values, device=device) for values in (pixels.mean, pixels.std))
    return mean.view(3, 1, 1), deviation.view(3, 1, 1)
