"""A stream through everything that goes wrong between a node and its store: the samples of a calm
run, each once and in order, soon, in bounded memory, and counted.

Every fault hits a real store's answers on their way through a proxy, while a fresh cache is filled.
"""

import gc
import hashlib
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pytest

from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.platforms.local_stack import S3Server
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.host_batch import HostBatch
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.stream import Stream
from storage.errors import StoreError
from storage.shards.cache import ShardCache
from storage.shards.fetch import PROGRESS_S, FetchCounts, Fetcher
from tests.conftest import write_raw_folders
from tests.servers import BUCKET, stores_of
from tests.storage.broken_answers import Answer, Cut, Fault, Flip, Reset, Shorten, Stall, Trickle
from tests.storage.faults import FaultProxy

NUM_SAMPLES, SIZE_HW, BATCH_SIZE = 60, (96, 128), 4
BATCHES = NUM_SAMPLES // BATCH_SIZE
TABLE = np.array([0, 1, 2, 3] + [255] * 252, np.uint8)
AFTER_DROP_S = 2.0
"""For what follows when a request without progress is dropped."""
RECOVERY_S = PROGRESS_S + AFTER_DROP_S
"""The design's bound for one fault, over the calm run's time."""
SILENCES_S = [
    pytest.param(1.0, id="1 s"),
    pytest.param(PROGRESS_S, id="10 s", marks=[pytest.mark.slow, pytest.mark.nightly]),
]
"""After how long without progress a request is dropped; the second is what jobs have."""
BUSY_S = 8.0
"""For machines that do other things meanwhile."""
MEMORY_BYTES = 64 << 20
"""Of Python and NumPy, above the calm run's peak; a new client of boto3 alone takes half of it."""
GROWTH_BYTES = 2 << 20
"""Of what is kept from one faulty epoch to a later one; each fetches more than this."""
HELD_BYTES = 600_000
"""What streams may hold in memory ahead of need."""
OUTAGE_S = 120.0
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
THRICE_IS_DAMAGE = ("flipped byte", "an empty answer", "a page to log in")
"""Faults that look like a damaged object, where three meet one shard."""
UNHEDGED = [(name, FIRST) for name in SILENT]
"""Faults that nothing but a timeout ends."""


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


@pytest.fixture(scope="module")
def packed_uri(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A labelled split of ten shards or so in the S3 server."""
    raw_dir = tmp_path_factory.mktemp("raw")
    write_raw_folders(raw_dir, NUM_SAMPLES, seed=2, size_hw=SIZE_HW)
    uri = f"s3://{BUCKET}/{uuid4().hex}"
    pack(
        "folders",
        raw_dir,
        stores_of(s3_server).open(uri),
        "train",
        name="tiny",
        shard_bytes=120_000,
    )
    return uri


@pytest.fixture
def bed(
    s3_server: S3Server, packed_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bed]:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    proxy = FaultProxy(s3_server.endpoint_url)
    yield Bed(s3_server, packed_uri, proxy, tmp_path)
    proxy.close()


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


@pytest.mark.slow
def test_the_split_and_the_bounds_are_what_these_tests_assume(bed: Bed) -> None:
    shards = bed.manifest.shards
    assert 8 <= len(shards) <= 14
    assert all(shard.size_bytes > 120_000 for shard in shards)
    seen = calm(bed)
    assert len(set(seen.samples)) == NUM_SAMPLES
    assert seen.counts.retries == seen.counts.hedges == 0
    assert seen.counts.fetched_bytes == sum(shard.size_bytes for shard in shards)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "when"),
    [(name, when) for name in FAULTS for when in (FIRST, LATER) if (name, when) not in UNHEDGED],
)
def test_a_fault_changes_no_sample(name: str, when: str, bed: Bed) -> None:
    expected, key = calm(bed), bed.shard(when)
    bed.proxy.order(FAULTS[name], key, times=2 if name == "503" else 1)
    seen = bed.run()
    assert bed.proxy.num_ordered == 0
    assert_recovered(seen, expected)
    assert seen.counts.retries + seen.counts.hedges > 0


@pytest.mark.slow
@pytest.mark.parametrize("progress_s", SILENCES_S)
@pytest.mark.parametrize(("name", "when"), UNHEDGED)
def test_a_request_without_progress_is_dropped(
    name: str, when: str, progress_s: float, bed: Bed
) -> None:
    """Before a stream knows how long a shard takes, no second request goes beside a straggler."""
    expected, key = calm(bed), bed.shard(when)
    bed.proxy.order(FAULTS[name], key)
    seen = bed.run(progress_s=progress_s)
    assert bed.proxy.num_ordered == 0
    assert seen.seconds >= progress_s
    assert_recovered(seen, expected, progress_s + AFTER_DROP_S)
    assert seen.counts.retries > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cut body", "reset in the body"])
def test_what_has_come_is_not_asked_for_again(name: str, bed: Bed) -> None:
    key = bed.shard(FIRST)
    bed.proxy.order(FAULTS[name], key)
    bed.run(batches=3)
    first, *rest = [str(asked).removeprefix("bytes=").split("-") for asked in bed.proxy.ranges(key)]
    assert first[0] == "0" and len(rest) == 1
    assert int(rest[0][0]) > 0 and rest[0][1] == first[1]


@pytest.mark.slow
def test_faults_on_every_shard_change_no_sample(bed: Bed) -> None:
    expected = calm(bed)
    faults = [fault for name, fault in FAULTS.items() if name not in SILENT]
    for number, shard in enumerate(bed.manifest.shards):
        bed.proxy.order(faults[number % len(faults)], shard.name)
        bed.proxy.order(faults[(number + 3) % len(faults)], shard.name)
    seen = bed.run()
    assert bed.proxy.num_ordered == 0
    assert_recovered(seen, expected, 3 * RECOVERY_S)
    assert seen.counts.retries >= len(bed.manifest.shards)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ORDERS)
def test_faults_change_nothing_where_the_cache_is_too_small(sampling: Sampling, bed: Bed) -> None:
    """Shards are held in memory then, or single samples fetched."""
    expected = calm(bed, sampling)
    for name in ("cut body", "flipped byte", "503", "reset in the body"):
        for shard in bed.manifest.shards[::2]:
            bed.proxy.order(Cut(3000) if name == "cut body" else FAULTS[name], shard.name)
    seen = bed.run(sampling, capacity_bytes=300_000)
    assert_recovered(seen, expected, 3 * RECOVERY_S)


@pytest.mark.slow
@pytest.mark.parametrize("progress_s", SILENCES_S)
@pytest.mark.parametrize("name", SILENT)
def test_single_samples_are_not_waited_for_forever(name: str, progress_s: float, bed: Bed) -> None:
    expected = calm(bed, "papers")
    fault = Trickle(1000) if name == "slow trickle" else Stall(1000 if name == "stall" else 0)
    bed.proxy.order(fault, "shard-")
    with bed.stream("papers", 1, progress_s) as stream:

        def give_up() -> None:
            stream.split.cache.close()
            bed.proxy.reset_connections()

        watch = threading.Timer(3 * RECOVERY_S, give_up)  # a trickle would take hours
        watch.start()
        started_s = time.monotonic()
        samples = [line for _ in range(BATCHES) for line in lines(next(stream))]
        seconds = time.monotonic() - started_s
        watch.cancel()
    assert bed.proxy.num_ordered == 0
    assert samples == expected.samples
    assert progress_s <= seconds <= expected.seconds + progress_s + AFTER_DROP_S + BUSY_S


def test_a_shard_that_stays_wrong_is_named(bed: Bed) -> None:
    key = bed.shard(LATER)
    bed.proxy.order(Flip(60_000), key, times=9)
    with pytest.raises(StoreError, match=f"train/{key}: truncated or damaged shard: .*3 times"):
        bed.run()
    assert bed.proxy.num_ordered == 9 - 3


@pytest.mark.slow
def test_a_page_to_log_in_is_named(bed: Bed) -> None:
    key = bed.shard(LATER)
    bed.proxy.order(Answer(200, page="<html><title>Please log in</title></html>"), key, times=9)
    with pytest.raises(StoreError, match=f"train/{key}: .*Please log in"):
        bed.run()


def test_connections_that_end_again_and_again_are_no_damage(bed: Bed) -> None:
    expected, key = calm(bed), bed.shard(LATER)
    bed.proxy.order(Cut(0), key, times=4)
    seen = bed.run()
    assert bed.proxy.num_ordered == 0
    assert_recovered(seen, expected)


@pytest.mark.slow
def test_nothing_piles_up_over_faulty_epochs(bed: Bed) -> None:
    """Neither memory nor open files; two thirds of the shards are fetched in every epoch."""
    left_out = (*SILENT, *THRICE_IS_DAMAGE)  # by chance, one shard may meet three
    faults = [fault for name, fault in FAULTS.items() if name not in left_out]
    largest_bytes = max(shard.size_bytes for shard in bed.manifest.shards)
    kept_bytes, open_files = [], []
    with bed.stream(capacity_bytes=1_000_000) as stream, traced():
        for number in range(5 * BATCHES):
            bed.proxy.order(faults[number % len(faults)], "shard-")
            next(stream)
            held_bytes = stream.split.cache.buffered_bytes
            assert held_bytes <= 7 * largest_bytes, "three windows of two, and one released"
            if (number + 1) % BATCHES == 0:
                gc.collect()  # clients of boto3 that were given up
                kept_bytes.append(tracemalloc.get_traced_memory()[0])
                open_files.append(len(list(Path("/proc/self/fd").iterdir())))
    cache = stream.split.cache
    del stream
    gc.collect()
    assert cache.buffered_bytes == 0
    assert min(kept_bytes[2:]) - kept_bytes[1] < GROWTH_BYTES, "one may hold two clients for once"
    assert open_files[-1] - open_files[1] < 10


@pytest.mark.parametrize("name", ["away", "stalled"])
def test_a_stream_is_closed_at_once_whatever_the_store_does(name: str, bed: Bed) -> None:
    with bed.stream() as stream:
        next(stream)
        if name == "away":
            bed.proxy.outage(60.0)
        else:
            bed.proxy.order(Stall(1000), "shard-", times=9)
        stream.split.want(range(len(bed.manifest.shards)))
        time.sleep(0.5)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 5


@pytest.mark.slow
def test_a_short_outage_is_waited_for(bed: Bed) -> None:
    expected = calm(bed)
    seen = bed.run(at_batch=lambda number: number == 3 and bed.proxy.outage(3.0))
    assert seen.seconds >= 3.0 and seen.counts.retries > 0
    assert_recovered(seen, expected, 3.0 + RECOVERY_S)


@pytest.mark.slow
@pytest.mark.nightly
def test_an_outage_of_two_minutes_is_waited_for(bed: Bed) -> None:
    expected = calm(bed)
    seen = bed.run(at_batch=lambda number: number == 3 and bed.proxy.outage(OUTAGE_S))
    assert seen.seconds >= OUTAGE_S
    assert_recovered(seen, expected, OUTAGE_S)
    assert seen.counts.retries > 10
