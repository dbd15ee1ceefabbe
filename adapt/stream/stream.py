"""A domain's endless stream of batches: draws in planned order, decoded by threads, ready before
they are requested.

Decoding runs in threads of the rank's own process, since every decoder here releases the GIL and
moving tensors between DataLoader workers costs as much as the decoding itself. The whole state of a
stream is one integer, the number of its next draw. Samples stay uint8; `feed.py` moves them to the
device.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

from adapt.data.packed.mixture import Mixture
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import DataError, Interrupted
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.decoder import SampleDecoder
from adapt.stream.host_batch import Decoded, HostBatch
from adapt.stream.malloc import keep_freed_memory
from adapt.stream.orders import ORDERS
from adapt.stream.orders.order import Drawing
from adapt.stream.state import state_of

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Interval at which a wait for data checks for a stop of the job."""


class Stream:
    """Iterates over this rank's part of the global batches of one domain, for ever.

    `domain` is the domain's number in the job (0 source, 1 target). `batch_size` is the global one;
    each rank takes `batch_size / num_ranks` draws of every batch. `augmentations` has one for each
    part of the split. `draw` is the first draw that no
    batch has been handed out for. `planned_draws` is how many the job's schedule foresees. With
    `for_device`, samples come in pinned memory and unchanged, with the changes that are to be made
    on the device. `wait_s` sums the time that `next` had to wait, `bad_samples` counts the bad
    samples skipped in this rank's batches, both since this stream was made.

    `next` raises `StoreError` where a shard cannot be fetched, `DataError` for a bad sample, by
    name, and `Interrupted` where it has to wait while `stop` is set. Making it raises `JobError`
    as `Order.build`.
    """

    def __init__(
        self,
        split: PackedSplit | Mixture,
        *,
        seed: int,
        domain: int,
        batch_size: int,
        augmentations: Sequence[AugmentConfig],
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
        self.split, self.config, self.batch_size = split, config, batch_size
        self.order = ORDERS[config.sampling].build(
            Drawing(split, seed, domain, planned_draws), config
        )
        split.random_access = self.order.random_access
        self.rank_size = batch_size // num_ranks
        self.rank_start = rank * self.rank_size
        self.draw = self._planned = draw
        self.wait_s = 0.0
        self.bad_samples = 0
        self._stop = stop
        self._decoder = SampleDecoder(split, self.order, augmentations, config, for_device)
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
        """Return whether `next` would return a batch without waiting, and without an error."""
        return bool(self._ready) and all(
            future.done() and future.exception() is None for future in self._ready[0][1]
        )

    def state(self, draw: int) -> dict[str, Any]:
        """The state for a checkpoint, with `draw` as the next one: see `state_of`."""
        return state_of(self.split, self.order.seed, self.batch_size, self.config, draw)

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
        size_bytes = self._decoder.decoded_bytes(draws)
        futures = [self._pool.submit(self._decoder.decode, draw) for draw in draws]
        self._ready.append((size_bytes, futures))
        self._ready_bytes += size_bytes
        self._planned += self.batch_size

    def _want_shards(self) -> None:
        """Pass the shards that the plan needs next to the split, now and then."""
        stop = self._planned + self.batch_size
        if stop <= self._want_again:
            return
        self._want_again = self.order.same_until(stop - 1)
        near = self.order.near(self.draw, stop)
        self.split.want([*near, *self.order.upcoming_shards(stop - 1)], side_by_side=len(near))

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
                f"{self.split.uri}: expected images of one size in a "
                f"batch, got {sorted(sizes)} (samples {keys})",
                fix="set size_hw, or augment.crop_hw",
            )
