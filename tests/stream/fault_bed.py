"""A packed split in a store behind a proxy that makes faults, streams through it, and what a calm
run gives, for the tests of streams."""

import hashlib
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np

from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.platforms.local_stack import S3Server
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.host_batch import HostBatch
from adapt.stream.orders import Sampling
from adapt.stream.stream import Stream
from storage.shards.cache import ShardCache
from storage.shards.fetch import PROGRESS_S, FetchCounts, Fetcher
from tests.servers import stores_of
from tests.storage.broken_answers import Answer, Cut, Fault, Flip, Reset, Shorten, Stall, Trickle
from tests.storage.faults import FaultProxy

NUM_SAMPLES, SIZE_HW, BATCH_SIZE = 60, (96, 128), 4
BATCHES = NUM_SAMPLES // BATCH_SIZE
TABLE = np.array([0, 1, 2, 3] + [255] * 252, np.uint8)
AFTER_DROP_S = 2.0
"""For what follows when a request without progress is dropped."""
RECOVERY_S = PROGRESS_S + AFTER_DROP_S
"""The design's bound for one fault, over the calm run's time."""
BUSY_S = 8.0
"""For machines that do other things meanwhile."""
MEMORY_BYTES = 64 << 20
"""Of Python and NumPy, above the calm run's peak; a new client of boto3 alone takes half of it."""
HELD_BYTES = 600_000
"""What streams may hold in memory ahead of need."""
FIRST, LATER = "first", "later"

FAULTS: dict[str, Fault] = {
    "cut body": Cut(70_000),
    "cut at the first byte": Cut(0),
    "503": Answer(503),
    "reset before the answer": Reset(),
    "reset in the body": Reset(100_000),
    "flipped byte": Flip(90_001),
    "truncated, with a length to match": Shorten(50_000),
    "an empty answer": Shorten(0),
    "expired token": Answer(400, "ExpiredToken"),
    "a gateway's page": Answer(502, page="<html><title>Bad gateway</title></html>"),
    "a page to log in": Answer(200, page="<html><title>Please log in</title></html>"),
    "stall": Stall(70_000),
    "stall at the first byte": Stall(0),
    "slow trickle": Trickle(70_000),
}
SILENT = ("stall", "stall at the first byte", "slow trickle")
"""Faults that only the clock can tell from a slow store."""


class Seen(NamedTuple):
    """What a run gave: a line a sample, its time and its peak of traced memory."""

    samples: list[str]
    seconds: float
    peak_bytes: int
    counts: FetchCounts


def lines(batch: HostBatch) -> list[str]:
    """The key and the sha256 of pixels and labels of each sample."""
    assert batch.labels is not None
    found = []
    for key, image, labels in zip(batch.keys, batch.images, batch.labels, strict=True):
        parts = [tensor.contiguous().numpy().tobytes() for tensor in (image, labels)]
        found.append(f"{key} {hashlib.sha256(b''.join(parts)).hexdigest()}")
    return found


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Traces memory; yields how to ask for the peak in bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Bed:
    """A packed split in a store, a proxy before it, and streams through the proxy."""

    def __init__(self, server: S3Server, uri: str, proxy: FaultProxy, folder: Path) -> None:
        self.proxy, self.folder, self.uri = proxy, folder, uri
        chain = {"access_key_env": None, "secret_key_env": None}  # whose keys can be refreshed
        self.stores = stores_of(server._replace(endpoint_url=proxy.endpoint_url), **chain)
        self.manifest, _ = read_manifest(self.stores.open(uri), "train")

    @contextmanager
    def stream(
        self,
        sampling: Sampling = "windows",
        capacity_bytes: int | None = None,
        progress_s: float = PROGRESS_S,
    ) -> Iterator[Stream]:
        """A stream with a cache of its own, which is empty; closed as a job closes it."""
        cache = ShardCache(
            self.folder / uuid4().hex,
            capacity_bytes,
            reserve_bytes=0,
            memory_bytes=HELD_BYTES,
            fetcher=Fetcher(progress_s),
        )
        stream = Stream(
            PackedSplit(self.stores.open(self.uri), "train", cache, TABLE),
            seed=3,
            domain=0,
            batch_size=BATCH_SIZE,
            augmentations=[AugmentConfig(flip=0.5)],
            config=StreamConfig(threads=2, window_shards=2, sampling=sampling),
            planned_draws=2 * NUM_SAMPLES,
        )
        try:
            yield stream
        finally:
            cache.close()
            stream.close()

    def run(
        self,
        sampling: Sampling = "windows",
        capacity_bytes: int | None = None,
        batches: int = BATCHES,
        at_batch: Callable[[int], object] = lambda _: None,
        progress_s: float = PROGRESS_S,
    ) -> Seen:
        """An epoch of a new stream; `at_batch` is called before each batch."""
        samples: list[str] = []
        with self.stream(sampling, capacity_bytes, progress_s) as stream, traced() as peak_bytes:
            started_s = time.monotonic()
            for number in range(batches):
                at_batch(number)
                samples += lines(next(stream))
            seconds = time.monotonic() - started_s
            return Seen(samples, seconds, peak_bytes(), stream.split.cache.fetcher.counts)

    def shard(self, when: str) -> str:
        """The name of a shard that a stream wants first, or when it knows how long one takes."""
        with self.stream() as stream:
            draw = 0 if when == FIRST else NUM_SAMPLES - 1
            near = stream.order.near(draw, draw + 1)
        return self.manifest.shards[near[0]].name


_CALM: dict[tuple[Sampling, str], Seen] = {}


def calm(bed: Bed, sampling: Sampling = "windows") -> Seen:
    """What a run gives while nothing happens."""
    if (sampling, bed.uri) not in _CALM:
        _CALM[sampling, bed.uri] = bed.run(sampling)
    return _CALM[sampling, bed.uri]


def assert_recovered(seen: Seen, expected: Seen, away_s: float = RECOVERY_S) -> None:
    """The same samples, soon, without heaps of memory."""
    assert seen.samples == expected.samples
    assert seen.seconds <= expected.seconds + away_s + BUSY_S
    assert seen.peak_bytes <= expected.peak_bytes + MEMORY_BYTES
