"""A domain's endless stream of batches: draws in plan order, decoded by threads, ready before they
are asked for.

Decoding runs in threads of the rank's own process, since every decoder here releases the GIL and
moving tensors between DataLoader workers costs as much as the decoding itself. What a stream
remembers is one integer, the number of its next draw: a bad sample, where it is skipped, is
replaced by that of the next draw, whatever was skipped before. Samples stay uint8; `feed.py` brings
them to the device.
"""

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import torch

from adapt.batch import IGNORED, Sample
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import DataError, Interrupted, JobError
from adapt.stream.augment import AugmentConfig, Changes, Wanted, change, draw_changes
from adapt.stream.config import TRIES, StreamConfig
from adapt.stream.host_batch import Decoded, HostBatch
from adapt.stream.malloc import keep_freed_memory
from adapt.stream.order import AUGMENTATION, ORDERS, Order, philox

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often a wait for data looks whether the job is to stop."""


class Stream:
    """Iterates over this rank's part of the global batches of one domain, for ever.

    `batch_size` is the global one; each rank takes `batch_size / num_ranks` draws of every batch.
    `draw` is the first draw no batch has been handed out for. `planned_draws` is how many the job's
    schedule foresees. With `for_device`, samples come in pinned memory and unchanged, with the
    changes that are to be made on the device. `wait_s` sums the time `next` had to wait,
    `bad_samples` how often a bad sample was skipped in this rank's batches, both since this stream
    was made.

    `next` raises `StoreError` where a shard cannot be had, `DataError` for a bad sample, by name,
    and `Interrupted` where it has to wait while `stop` is set.
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
        for_device: bool = False,
        stop: Event | None = None,
    ) -> None:
        assert batch_size % num_ranks == 0, "checked when the job starts"
        keep_freed_memory()
        self.split, self.augmentation, self.batch_size = split, augmentation, batch_size
        self.seed, self.stream, self.config = seed, stream, config
        self.order = _order(split, seed, stream, config, planned_draws)
        split.random_access = self.order.random_access
        self.rank_size = batch_size // num_ranks
        self.rank_start = rank * self.rank_size
        self.draw = self._planned = draw
        self.wait_s = 0.0
        self.bad_samples = 0
        self._for_device, self._stop = for_device, stop
        self._augments = augmentation != AugmentConfig()
        self._tries = TRIES[config.on_bad_sample]
        self._named: set[str] = set()
        self._ready: deque[tuple[int, list[Future[Decoded]]]] = deque()
        self._ready_bytes = 0
        self._want_again = draw
        self._pool = ThreadPoolExecutor(config.threads or 2, thread_name_prefix="decode")

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> HostBatch:
        while self._may_plan():
            self._plan_batch()
        started_s = time.perf_counter()
        size_bytes, futures = self._ready.popleft()
        decoded = tuple(self._waited_for(future) for future in futures)
        self.wait_s += time.perf_counter() - started_s
        self._ready_bytes -= size_bytes
        self.draw += self.batch_size
        self._report(decoded)
        self._check_sizes(decoded)
        return HostBatch(decoded)

    @property
    def num_ready(self) -> int:
        """Batches that are decoded and wait."""
        return sum(all(future.done() for future in futures) for _, futures in self._ready)

    @property
    def next_is_ready(self) -> bool:
        """Whether `next` would give a batch without waiting, and without an error."""
        return bool(self._ready) and all(
            future.done() and future.exception() is None for future in self._ready[0][1]
        )

    def state(self, draw: int) -> dict[str, Any]:
        """What a checkpoint keeps, with `draw` as the next one: plain values, under 300 bytes of
        JSON."""
        return {
            "dataset_id": self.split.manifest.dataset_id,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sampling": self.config.sampling,
            "window_shards": self.config.window_shards,
            "draw": draw,
        }

    def close(self) -> None:
        """Drop what was planned and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.split.close()
        self._pool.shutdown(wait=True)

    def _waited_for(self, future: Future[Decoded]) -> Decoded:
        while True:
            try:
                return future.result(POLL_S)
            except TimeoutError:
                if future.done():
                    raise
                if self._stop is not None and self._stop.is_set():
                    raise Interrupted("stopped while waiting for data") from None

    def _may_plan(self) -> bool:
        if not self._ready:
            return True
        room = self._ready_bytes + self._ready[-1][0] <= self.config.decoded_mb * 1_000_000
        return room and len(self._ready) <= self.config.prefetch_batches

    def _plan_batch(self) -> None:
        start = self._planned + self.rank_start
        self._want_shards()
        draws = range(start, start + self.rank_size)
        sizes_bytes = [self.split.decoded_bytes(self.order.sample(draw)) for draw in draws]
        self._ready.append((sum(sizes_bytes), [self._pool.submit(self._decode, d) for d in draws]))
        self._ready_bytes += sum(sizes_bytes)
        self._planned += self.batch_size

    def _want_shards(self) -> None:
        """Tell the split, now and then, which shards the plan needs next."""
        stop = self._planned + self.batch_size
        if stop <= self._want_again:
            return
        self._want_again = self.order.same_until(stop - 1)
        near = self.order.near(self.draw, stop)
        self.split.want([*near, *self.order.upcoming_shards(stop - 1)], side_by_side=len(near))

    def _decode(self, draw: int) -> Decoded:
        skipped: dict[str, str] = {}
        for candidate in range(draw, draw + self._tries):
            number = self.order.sample(candidate)
            try:
                sample = _read(self.split, number)
            except DataError as error:
                skipped[self.split.name(number)] = str(error)
                continue
            changes = self._changes(sample, draw, candidate) if self._augments else None
            key = self.split.key(number)
            if self._for_device:
                return Decoded(key, _pinned(sample), skipped, changes)
            return Decoded(key, change(sample, changes) if changes else sample, skipped)
        raise self._refusal(list(skipped.values()))

    def _changes(self, sample: Sample, draw: int, candidate: int) -> Changes:
        random = np.random.Generator(philox(self.seed, self.stream, AUGMENTATION, draw))
        train_id = self.order.wanted_class(candidate)
        least_pixels = self.config.rare_class_min_pixels // 2
        wanted = None if train_id is None else Wanted(train_id, least_pixels)
        return draw_changes(sample, self.augmentation, random, wanted)

    def _refusal(self, faults: list[str]) -> DataError:
        if self._tries == 1:
            return DataError(f"{faults[0]}; to train without it, set stream.on_bad_sample: skip")
        return DataError(
            f"{self._tries} draws in a row met bad samples only, {len(faults)} of them; the first: "
            f"{faults[0]}"
        )

    def _report(self, decoded: tuple[Decoded, ...]) -> None:
        for name, fault in (item for one in decoded for item in one.skipped.items()):
            self.bad_samples += 1
            if name not in self._named:
                self._named.add(name)
                log.warning("skipped a bad sample: %s", fault)

    def _check_sizes(self, decoded: tuple[Decoded, ...]) -> None:
        """Raises `DataError` where the samples of a batch do not end up at one size."""
        sizes = {
            one.changes.size_hw if one.changes else tuple(one.sample.image.shape[-2:])
            for one in decoded
        }
        if len(sizes) > 1:
            keys = ", ".join(one.key for one in decoded)
            raise DataError(
                f"{self.split.store.uri}/{self.split.split}: a batch holds images of different "
                f"sizes {sorted(sizes)} ({keys}): set size_hw, or augment.crop_hw"
            )


def check_state(state: Mapping[str, Any], now: Mapping[str, Any], key: str) -> None:
    """Raise `JobError` naming what differs between a checkpoint's stream and this job's; `key` is
    the domain's section of the job spec."""
    for name, cure in _CURES.items():
        if state[name] != now[name]:
            raise JobError(
                f"{key}: the run's checkpoint was made with {name} {state[name]!r}, now it is "
                f"{now[name]!r}, so its samples cannot be gone on with; {cure}, rename the run, or "
                "start over with --fresh"
            )


_CURES = {
    "dataset_id": "put back the data set it was trained on (tag segadapt.* in MLflow)",
    "seed": "set seed back",
    "batch_size": "set batch_size back",
    "sampling": "set stream.sampling back",
    "window_shards": "set stream.window_shards back",
}


def _order(
    split: PackedSplit, seed: int, stream: int, config: StreamConfig, planned_draws: int
) -> Order:
    """The order of `stream.sampling`; windows, where that needs labels and the split has none."""
    table, sampling, pixels = split.id_table, config.sampling, None
    if sampling == "rare_classes":
        if table is None:
            sampling = "windows"
        else:
            pixels = split.label_pixels(int(table[table != IGNORED].max(initial=0)) + 1)
            if pixels.max(initial=0) <= config.rare_class_min_pixels:
                raise JobError(
                    f"stream.rare_class_min_pixels: expected less than {pixels.max(initial=0)}, "
                    f"the most that a sample of {split.store.uri}/{split.split} shows of a class, "
                    f"got {config.rare_class_min_pixels}"
                )
    return ORDERS[sampling](
        split.shard_sizes,
        seed,
        stream,
        config.window_shards,
        planned_draws,
        pixels,
        config.rare_class_temperature,
        config.rare_class_min_pixels,
    )


def _pinned(sample: Sample) -> Sample:
    """The sample in memory that a GPU can fetch by itself."""
    if not torch.cuda.is_available():
        return sample
    labels = None if sample.labels is None else sample.labels.pin_memory()
    return Sample(sample.image.pin_memory(), labels)


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
