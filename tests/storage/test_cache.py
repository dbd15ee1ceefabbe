"""The shard cache under faults: wrong bytes, truncation, a full disk, threads and processes at
once.
"""

import fcntl
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import xxhash

from adapt.platforms.local_stack import S3Server
from storage.cache import ShardCache
from storage.local import LocalStore
from storage.s3 import S3Store
from storage.store import MissingObject, StoreError, Stores
from tests.servers import stores_of
from tests.storage.faults import FaultProxy

DATA = os.urandom(300_000)
XXH3 = xxhash.xxh3_64(DATA).hexdigest()
KEY = "train/shard-00000.tar"
WRONG = bytes([DATA[0] ^ 1]) + DATA[1:]


class CountedStore(S3Store):
    """An S3 store that writes a line to `log` for each download, visible to every process."""

    log: Path

    def get_file(self, key: str, path: Path) -> None:
        with self.log.open("a") as file:
            file.write(f"{key}\n")
        super().get_file(key, path)

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


def _fetch(
    cache: ShardCache, store: CountedStore | LocalStore, key: str = KEY, dataset_id: str = "d"
) -> Path:
    return cache.fetch(store, key, len(DATA), XXH3, dataset_id)


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(".lock"))


def test_a_shard_is_downloaded_once(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    paths = [_fetch(cache, store), _fetch(cache, store), _fetch(ShardCache(folder), store)]
    assert set(paths) == {folder / "d" / KEY}
    assert paths[0].read_bytes() == DATA
    assert store.num_downloads == 1
    assert _files(folder) == [f"d/{KEY}"]


def test_data_sets_with_equal_names_do_not_meet(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    assert _fetch(cache, store, dataset_id="one") != _fetch(cache, store, dataset_id="two")
    assert store.num_downloads == 2


@pytest.mark.parametrize("found", [WRONG, DATA[:-1], DATA + b"\0", b""])
def test_a_damaged_copy_is_found_on_first_use_and_fetched_again(
    store: CountedStore, folder: Path, found: bytes
) -> None:
    _fetch(ShardCache(folder), store).write_bytes(found)
    cache = ShardCache(folder)
    assert _fetch(cache, store).read_bytes() == DATA
    assert store.num_downloads == 2


def test_a_copy_that_disappears_is_fetched_again(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    _fetch(cache, store).unlink()
    assert _fetch(cache, store).read_bytes() == DATA


@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        (WRONG, f"expected xxh3 {XXH3}, found {xxhash.xxh3_64(WRONG).hexdigest()}"),
        (DATA[:-7], "expected 300000 bytes, found 299993"),
    ],
)
def test_a_shard_that_stays_wrong_is_named_after_three_downloads(
    store: CountedStore, folder: Path, stored: bytes, fault: str
) -> None:
    store.put(KEY, stored)
    message = f"{store.uri}/{KEY}: truncated or damaged shard: {fault}; .*; downloaded 3 times"
    with pytest.raises(StoreError, match=message):
        _fetch(ShardCache(folder), store)
    assert store.num_downloads == 3
    assert _files(folder) == []


def test_a_byte_that_changes_on_its_way_is_fetched_again(
    store: CountedStore, folder: Path, s3_server: S3Server, proxy: FaultProxy
) -> None:
    through = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(store.uri)
    proxy.flips = 2
    path = ShardCache(folder).fetch(through, KEY, len(DATA), XXH3, "d")
    assert path.read_bytes() == DATA
    assert proxy.flips == 0


def test_a_missing_shard_is_named(store: CountedStore, folder: Path) -> None:
    with pytest.raises(MissingObject, match=rf"{store.uri}/gone.tar"):
        _fetch(ShardCache(folder), store, "gone.tar")
    assert _files(folder) == []


def test_threads_download_a_shard_once(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: _fetch(cache, store), range(16)))
    assert set(paths) == {folder / "d" / KEY}
    assert paths[0].read_bytes() == DATA
    assert store.num_downloads == 1


def test_processes_download_a_shard_once(store: CountedStore, folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)

    def child() -> None:
        cache = ShardCache(folder)
        barrier.wait(20)
        assert _fetch(cache, store).read_bytes() == DATA

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
    for name in (f".tmp-0123456789abcdef-{shard.name}.part", f"{shard.name}.part"):
        (shard.parent / name).write_bytes(bytes(1000))
    assert _fetch(ShardCache(folder, capacity_bytes=len(DATA)), store).read_bytes() == DATA
    assert _files(folder) == [f"d/{KEY}"]


def test_a_full_cache_says_what_to_do(store: CountedStore, folder: Path) -> None:
    cache = ShardCache(folder, capacity_bytes=2 * len(DATA) - 1)
    store.put("second.tar", DATA)
    first = _fetch(cache, store)
    with pytest.raises(
        StoreError,
        match=rf"/second.tar: the cache {folder} is full: 300000 of 599999 bytes used, 300000 more "
        "needed; raise its capacity or empty it",
    ):
        _fetch(cache, store, "second.tar")
    assert _fetch(cache, store) == first
    assert store.num_downloads == 1


def test_threads_do_not_fill_a_cache_over_its_capacity(store: CountedStore, folder: Path) -> None:
    keys = [f"{number}.tar" for number in range(6)]
    for key in keys:
        store.put(key, DATA)
    cache = ShardCache(folder, capacity_bytes=3 * len(DATA))

    def admitted(key: str) -> bool:
        try:
            return _fetch(cache, store, key).exists()
        except StoreError:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(admitted, keys)) == 3
    assert len(_files(folder)) == 3


def test_a_shard_gets_its_name_only_while_nobody_sums_up_sizes(
    store: CountedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded, summing, download = Event(), Event(), store.get_file

    def get_file(key: str, path: Path) -> None:
        download(key, path)
        downloaded.set()
        assert summing.wait(30)

    monkeypatch.setattr(store, "get_file", get_file)
    with ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(_fetch, ShardCache(folder), store)
        assert downloaded.wait(30)
        with (folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            summing.set()
            time.sleep(0.3)
            assert _files(folder) == [f"d/{KEY}.part"]
        assert fetched.result(30).exists()


def test_the_disks_reserve_is_kept(
    store: CountedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(len(DATA) + 99))
    message = (
        f"no room on the disk of {folder}: 300099 bytes free, 300000 needed and 100 kept in reserve"
    )
    with pytest.raises(StoreError, match=message):
        _fetch(ShardCache(folder, reserve_bytes=100), store)
    assert _fetch(ShardCache(folder, reserve_bytes=99), store).exists()


def test_a_folder_that_cannot_be_written_is_named(store: CountedStore, folder: Path) -> None:
    folder.touch()
    with pytest.raises(
        StoreError, match=rf"{store.uri}/{KEY}: a part of the path is a file.*{folder}"
    ):
        _fetch(ShardCache(folder), store)


def test_a_data_set_id_never_leaves_the_folder(store: CountedStore, folder: Path) -> None:
    with pytest.raises(StoreError, match=r"dataset_id: '../d' is not a key"):
        _fetch(ShardCache(folder), store, dataset_id="../d")


def test_local_shards_are_used_in_place(tmp_path: Path, folder: Path) -> None:
    local = LocalStore(str(tmp_path / "data"))
    local.put(KEY, DATA)
    cache = ShardCache(folder)
    assert _fetch(cache, local) == _fetch(cache, local) == tmp_path / "data" / KEY
    assert not folder.exists()


@pytest.mark.parametrize("stored", [WRONG, DATA[:-1]])
def test_damaged_local_shards_are_named_and_left_alone(
    tmp_path: Path, folder: Path, stored: bytes
) -> None:
    local = LocalStore(str(tmp_path / "data"))
    local.put(KEY, stored)
    with pytest.raises(StoreError, match=rf"{local.uri}/{KEY}: truncated or damaged shard"):
        _fetch(ShardCache(folder), local)
    assert local.get(KEY) == stored


def test_a_missing_local_shard_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingObject, match=r"/gone.tar: there is no such file"):
        _fetch(ShardCache(folder), LocalStore(str(tmp_path)), "gone.tar")
