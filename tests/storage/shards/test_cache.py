"""The shard cache under faults: wrong bytes, truncation, a full disk, threads and processes at
once.
"""

import errno
import fcntl
import multiprocessing
import os
import random
import shutil
import time
import traceback
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import xxhash

from adapt.platforms.local_stack import S3Server
from storage.errors import MissingObject, StoreError, StoreUnavailable
from storage.local import LocalStore
from storage.s3.store import S3Store
from storage.shards.cache import ShardCache
from storage.shards.fetch import Fetcher
from storage.shards.shards import OpenShard
from storage.store import Download, Store
from storage.stores import Stores
from tests.servers import stores_of
from tests.storage.faults import FaultProxy

DATA = random.Random(0).randbytes(300_000)
XXH3 = xxhash.xxh3_64(DATA).hexdigest()
KEY = "train/shard-00000.tar"
WRONG = bytes([DATA[0] ^ 1]) + DATA[1:]


class CountedStore(S3Store):
    """An S3 store that writes a line to `log` for each download, visible to every process."""

    log: Path

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        with self.log.open("a") as file:
            file.write(f"{key}\n")
        return super().download(key, offset_bytes, length_bytes)

    @property
    def num_downloads(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def store(s3_stores: Stores, s3_uri: str, tmp_path: Path) -> CountedStore:
    store = CountedStore(s3_uri, s3_stores.configs["s3"], s3_stores.environment)
    store.log = tmp_path / "downloads"
    store.put(KEY, DATA)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _open(
    cache: ShardCache, store: Store, key: str = KEY, dataset_id: str = "d", data: bytes = DATA
) -> OpenShard:
    return cache.open(store, key, len(data), xxhash.xxh3_64(data).hexdigest(), dataset_id)


def _bytes(shard: OpenShard | None) -> bytes:
    assert shard is not None
    return shard.read(0, len(DATA))


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(".lock"))


def test_a_shard_is_downloaded_once(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    shards = [_open(cache, store), _open(cache, store), _open(ShardCache(folder), store)]
    assert [_bytes(shard) for shard in shards] == [DATA] * 3
    assert store.num_downloads == 1
    assert _files(folder) == [f"d/{KEY}"]
    assert cache.counts == (1, 1)


def test_data_sets_with_equal_names_do_not_meet(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    for dataset_id in ("one", "two"):
        assert _bytes(_open(cache, store, dataset_id=dataset_id)) == DATA
    assert store.num_downloads == 2
    assert _files(folder) == [f"one/{KEY}", f"two/{KEY}"]


@pytest.mark.parametrize("found", [WRONG, DATA[:-1], DATA + b"\0", b""])
def test_a_damaged_copy_is_found_on_first_use_and_fetched_again(
    store: CountedStore, folder: Path, found: bytes
) -> None:
    _open(ShardCache(folder), store)
    (folder / "d" / KEY).write_bytes(found)
    assert _bytes(_open(ShardCache(folder), store)) == DATA
    assert store.num_downloads == 2


@pytest.mark.slow
def test_a_copy_that_disappears_is_fetched_again(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    before = _open(cache, store)
    (folder / "d" / KEY).unlink()
    assert _bytes(_open(cache, store)) == _bytes(before) == DATA
    assert store.num_downloads == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        (WRONG, f"expected xxh3 {XXH3}, got {xxhash.xxh3_64(WRONG).hexdigest()}"),
        (DATA[:-7], "expected 300000 bytes, the object has fewer"),
    ],
)
def test_a_shard_that_stays_wrong_is_named_after_three_downloads(
    store: CountedStore, folder: Path, stored: bytes, fault: str
) -> None:
    store.put(KEY, stored)
    where = f"{store.uri}/{KEY}"
    message = f"{where}: truncated or damaged shard: {fault}; downloaded 3 times. Fix: pack or"
    with pytest.raises(StoreError, match=message):
        _open(ShardCache(folder), store)
    assert store.num_downloads >= 3
    assert _files(folder) == []


def test_a_byte_that_changes_on_its_way_is_fetched_again(
    store: CountedStore, folder: Path, s3_server: S3Server, proxy: FaultProxy
) -> None:
    through = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(store.uri)
    proxy.flips = 2
    assert _bytes(_open(ShardCache(folder), through)) == DATA
    assert proxy.flips == 0


def test_a_shard_that_always_arrives_damaged_is_not_packed_again(
    store: CountedStore, folder: Path, s3_server: S3Server, proxy: FaultProxy
) -> None:
    through = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(store.uri)
    proxy.flips = 9
    with pytest.raises(StoreError, match=r"damaged shard: .*downloaded 3 times") as caught:
        _open(ShardCache(folder), through)
    assert "pack" not in caught.value.fix and "the stored object is intact" in caught.value.fix
    assert proxy.flips == 9 - 3


@pytest.mark.slow
def test_a_missing_shard_is_named(store: CountedStore, folder: Path) -> None:
    with pytest.raises(MissingObject, match=rf"{store.uri}/gone.tar"):
        _open(ShardCache(folder), store, "gone.tar")
    assert _files(folder) == []


def test_threads_download_a_shard_once(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    with ThreadPoolExecutor(8) as pool:
        shards = list(pool.map(lambda _: _open(cache, store), range(16)))
    assert {_bytes(shard) for shard in shards} == {DATA}
    assert store.num_downloads == 1


def test_processes_download_a_shard_once(store: CountedStore, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)

    def child() -> None:
        cache = ShardCache(folder)
        barrier.wait(20)
        assert _bytes(_open(cache, store)) == DATA

    processes = [context.Process(target=child) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert store.num_downloads == 1


def test_what_a_killed_process_left_is_removed(store: CountedStore, folder: Path) -> None:
    shard = folder / "d" / KEY
    shard.parent.mkdir(parents=True)
    for name in ("shard-00077.tar.part", f"{shard.name}.part"):
        (shard.parent / name).write_bytes(bytes(1000))
    assert _bytes(_open(ShardCache(folder, capacity_bytes=len(DATA)), store)) == DATA
    assert _files(folder) == [f"d/{KEY}"]


def test_what_a_full_cache_has_no_room_for_is_held_in_memory_while_it_is_read(
    store: CountedStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ShardCache(folder, capacity_bytes=2 * len(DATA) - 1)
    for key in ("second.tar", "third.tar"):
        store.put(key, DATA)
    first = _open(cache, store)
    held = [_open(cache, store, key) for key in ("second.tar", "third.tar", "second.tar")]
    assert [_bytes(shard) for shard in held] == [DATA] * 3
    assert cache.buffered_bytes == 3 * len(DATA) and cache.counts == (0, 4)
    assert store.num_downloads == 4 and _files(folder) == [f"d/{KEY}"]
    del held
    assert cache.buffered_bytes == 0 and _bytes(first) == DATA
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert f"the shard cache {folder} is full (its limit is 0.0006 GB)" in said[0]
    assert "stream.cache_gb" in said[0]


def test_a_shard_for_which_there_is_no_room_anywhere_is_named(
    store: CountedStore, folder: Path
) -> None:
    cache = ShardCache(folder, capacity_bytes=1, memory_bytes=len(DATA) - 1)
    with pytest.raises(
        StoreError, match=rf"{KEY}: the cache {folder} has no room for its 300000 bytes.*memory_gb"
    ):
        _open(cache, store)


def test_open_if_room_leaves_the_memory_alone(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder, capacity_bytes=len(DATA))
    store.put("second.tar", DATA)
    assert _bytes(cache.open_if_room(store, KEY, len(DATA), XXH3, "d")) == DATA
    assert cache.open_if_room(store, "second.tar", len(DATA), XXH3, "d") is None
    assert cache.buffered_bytes == 0 and store.num_downloads == 1


def test_a_disk_that_fills_up_meanwhile_is_no_error(
    store: CountedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def fsync(_descriptor: int) -> None:
        raise full

    cache = ShardCache(folder)
    monkeypatch.setattr(os, "fsync", fsync)
    assert _bytes(_open(cache, store)) == DATA
    assert cache.buffered_bytes == 0 and _files(folder) == []


def test_a_write_that_fails_on_a_full_disk_goes_to_memory(
    store: CountedStore, folder: Path
) -> None:
    cache = ShardCache(folder)

    class FullDisk(Fetcher):
        def fetch(self, store: Store, key: str, size_bytes: int, descriptor: int) -> str:
            if "memfd" not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().fetch(store, key, size_bytes, descriptor)

    cache.fetcher = FullDisk()
    shard = _open(cache, store)
    assert _bytes(shard) == DATA and cache.buffered_bytes == len(DATA)
    assert _files(folder) == []


def test_threads_do_not_fill_a_cache_over_its_capacity(store: CountedStore, folder: Path) -> None:
    keys = [f"{number}.tar" for number in range(6)]
    for key in keys:
        store.put(key, DATA)
    cache = ShardCache(folder, capacity_bytes=3 * len(DATA))
    with ThreadPoolExecutor(6) as pool:
        shards = list(pool.map(lambda key: _open(cache, store, key), keys))
    assert [_bytes(shard) for shard in shards] == [DATA] * 6
    assert cache.buffered_bytes == 3 * len(DATA)
    assert len(_files(folder)) == 3


def test_never_evicting_hits_as_often_as_any_cache_could(store: CountedStore, folder: Path) -> None:
    keys = [f"{number}.tar" for number in range(8)]
    for key in keys:
        store.put(key, DATA)
    cache = ShardCache(folder, capacity_bytes=4 * len(DATA))
    for epoch in range(3):
        before = cache.counts
        for key in random.Random(epoch).sample(keys, 8):
            _open(cache, store, key)
        assert cache.counts.hits - before.hits == (4 if epoch else 0)


def test_contents_are_listed_and_cleared(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    assert cache.datasets() == [] and cache.clear() == 0
    opened = [_open(cache, store, dataset_id=dataset_id) for dataset_id in ("one", "two")]
    assert cache.datasets() == [("one", 1, len(DATA)), ("two", 1, len(DATA))]
    assert cache.clear("one") == len(DATA)
    assert cache.datasets() == [("two", 1, len(DATA))] and _files(folder) == [f"two/{KEY}"]
    assert _bytes(opened[0]) == DATA
    assert _bytes(_open(cache, store, dataset_id="one")) == DATA
    assert cache.clear() == 2 * len(DATA) and _files(folder) == []


def test_a_cleared_id_never_leaves_the_folder(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"dataset_id: expected a key of names"):
        ShardCache(folder).clear("../d")


def test_a_closed_cache_fetches_no_more(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    cache.close()
    with pytest.raises(StoreUnavailable, match=rf"{KEY}: the download was cancelled, as the job"):
        _open(cache, store)


def test_a_shard_gets_its_name_only_while_nobody_sums_up_sizes(
    store: CountedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded, summing, fsync = Event(), Event(), os.fsync

    def slow_fsync(descriptor: int) -> None:
        fsync(descriptor)
        downloaded.set()
        assert summing.wait(30)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(_open, ShardCache(folder), store)
        assert downloaded.wait(30)
        with (folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            summing.set()
            time.sleep(0.3)
            assert _files(folder) == [f"d/{KEY}.part"]
        assert _bytes(fetched.result(30)) == DATA


def test_the_disks_reserve_is_kept(
    store: CountedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(len(DATA) + 99))
    for reserve_bytes, buffered_bytes in [(100, len(DATA)), (99, 0)]:
        cache = ShardCache(folder, reserve_bytes=reserve_bytes)
        shard = _open(cache, store)
        assert _bytes(shard) == DATA and cache.buffered_bytes == buffered_bytes


def test_a_folder_that_cannot_be_written_is_named(store: CountedStore, folder: Path) -> None:
    folder.touch()
    with pytest.raises(
        StoreError,
        match=rf"{store.uri}/{KEY}: expected folders as parts of the path, got a file.*{folder}",
    ):
        _open(ShardCache(folder), store)


def test_a_data_set_id_never_leaves_the_folder(store: CountedStore, folder: Path) -> None:
    with pytest.raises(StoreError, match=r"dataset_id: expected a key of names"):
        _open(ShardCache(folder), store, dataset_id="../d")


def test_local_shards_are_used_in_place(tmp_path: Path, folder: Path) -> None:
    local = LocalStore(str(tmp_path / "data"))
    local.put(KEY, DATA)
    cache = ShardCache(folder)
    assert _bytes(_open(cache, local)) == _bytes(_open(cache, local)) == DATA
    assert not folder.exists()


@pytest.mark.parametrize("stored", [WRONG, DATA[:-1]])
def test_damaged_local_shards_are_named_and_left_alone(
    tmp_path: Path, folder: Path, stored: bytes
) -> None:
    local = LocalStore(str(tmp_path / "data"))
    local.put(KEY, stored)
    with pytest.raises(StoreError, match=rf"{local.uri}/{KEY}: truncated or damaged shard"):
        _open(ShardCache(folder), local)
    assert local.get(KEY) == stored


def test_a_missing_local_shard_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingObject, match=r"/gone.tar: there is no such file"):
        _open(ShardCache(folder), LocalStore(str(tmp_path)), "gone.tar")


def test_a_shard_that_fails_on_its_way_into_memory_is_released(
    store: CountedStore, folder: Path
) -> None:
    """Even while the failure is kept, as logs do."""
    cache = ShardCache(folder, capacity_bytes=0)
    with pytest.raises(MissingObject) as kept:
        cache.open(store, "train/gone.tar", 1000, "0" * 16, "dataset")
    assert "_in_memory" in [frame.name for frame in traceback.extract_tb(kept.tb)]
    assert cache.buffered_bytes == 0
