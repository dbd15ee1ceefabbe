"""Streams whose node has too little disk: the same samples, from memory or by requests of their
own."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.platforms.local_stack import S3Server
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.stream import Stream
from storage.errors import StoreError
from storage.shards.cache import ShardCache
from storage.store import Store
from storage.stores import Stores
from tests.conftest import write_raw_folders
from tests.servers import stores_of
from tests.storage.faults import FaultProxy

TABLE = np.array([0, 1, 2, 3] + [255] * 252, np.uint8)
BATCHES = 9


@pytest.fixture(scope="module")
def packed_uri(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 samples in about ten shards, in the S3 server."""
    raw_dir, uri = tmp_path_factory.mktemp("raw"), "s3://tests/small-cache"
    write_raw_folders(raw_dir, 40, seed=3)
    store = stores_of(s3_server).open(uri)
    pack("folders", raw_dir, store, "train", name="tiny", shard_bytes=20_000)
    return uri


OpenStream = Callable[..., Stream]


@pytest.fixture
def open_stream(packed_uri: str, s3_stores: Stores, tmp_path: Path) -> OpenStream:
    def opened(
        sampling: Sampling,
        capacity_bytes: int | None,
        memory_bytes: int = 10**9,
        store: Store | None = None,
        table: np.ndarray | None = TABLE,
        batch_size: int = 8,
    ) -> Stream:
        folder = tmp_path / f"cache-{capacity_bytes}-{memory_bytes}"
        cache = ShardCache(folder, capacity_bytes, memory_bytes=memory_bytes)
        split = PackedSplit(store or s3_stores.open(packed_uri), "train", cache, table)
        return Stream(
            split,
            seed=3,
            domain=0,
            batch_size=batch_size,
            augmentations=[AugmentConfig()],
            config=StreamConfig(sampling=sampling, window_shards=2, rare_class_min_pixels=100),
            planned_draws=80,
        )

    return opened


def samples(stream: Stream) -> list[tuple[tuple[str, ...], bytes, bytes | None]]:
    with closing(stream):
        batches = [next(stream) for _ in range(BATCHES)]
    return [
        (
            batch.keys,
            batch.images.numpy().tobytes(),
            None if batch.labels is None else batch.labels.numpy().tobytes(),
        )
        for batch in batches
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ORDERS)
@pytest.mark.parametrize(("capacity_bytes", "memory_bytes"), [(1, 10**9), (60_000, 90_000)])
def test_the_samples_are_those_of_a_large_cache(
    open_stream: OpenStream, sampling: Sampling, capacity_bytes: int, memory_bytes: int
) -> None:
    calm = samples(open_stream(sampling, None))
    stream = open_stream(sampling, capacity_bytes, memory_bytes)
    assert samples(stream) == calm
    assert stream.split.cache.buffered_bytes == 0


def test_windows_hold_few_shards_in_memory(open_stream: OpenStream) -> None:
    stream, most = open_stream("windows", 1, memory_bytes=90_000, batch_size=2), 0
    total = sum(shard.size_bytes for shard in stream.split.manifest.shards)
    with closing(stream):
        for _ in range(60):
            next(stream)
            most = max(most, stream.split.cache.buffered_bytes)
    assert 0 < most < 0.7 * total


@pytest.mark.parametrize("sampling", ["papers", "rare_classes"])
def test_scattered_draws_fetch_samples_not_shards(
    open_stream: OpenStream, sampling: Sampling
) -> None:
    stream = open_stream(sampling, 1)
    found = samples(stream)
    cache = stream.split.cache
    assert cache.counts.hits == 0 < cache.counts.misses and cache.buffered_bytes == 0
    index = stream.split.index
    drawn = 8 * (len(found) + 3) * int((index.image_length_bytes + index.label_length_bytes).max())
    assert 0 < cache.fetcher.counts.fetched_bytes < drawn * 1.5


def test_a_target_s_samples_are_fetched_and_checked_too(open_stream: OpenStream) -> None:
    assert samples(open_stream("papers", 1, table=None)) == samples(
        open_stream("papers", None, table=None)
    )


def test_wrong_bytes_of_a_sample_are_fetched_again(
    open_stream: OpenStream, s3_server: S3Server, packed_uri: str
) -> None:
    proxy = FaultProxy(s3_server.endpoint_url)
    calm = samples(open_stream("papers", None))
    through = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(packed_uri)
    stream = open_stream("papers", 2, store=through)
    proxy.flips = 2
    assert samples(stream) == calm
    assert stream.split.cache.fetcher.counts.retries >= 2
    proxy.close()


def test_a_sample_that_stays_wrong_is_named(
    open_stream: OpenStream,
) -> None:
    stream = open_stream("papers", 3)
    index = stream.split.index
    stream.split.index = dataclasses.replace(index, xxh3=np.zeros_like(index.xxh3))
    with (
        closing(stream),
        pytest.raises(StoreError, match=r"shard-\d+.tar: \d+ bytes at \d+ are damaged, fetched 3"),
    ):
        next(stream)
