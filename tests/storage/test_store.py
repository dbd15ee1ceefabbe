"""The protocol's contract over every row of STORES, and the parts of `store.py` that touch no
store.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.retry import retried
from storage.store import ObjectInfo, Store
from storage.stores import READ_ONLY, STORES, Stores, open_store
from storage.uris import checked_key
from tests.servers import BUCKET
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import WebServer

LARGE_BYTES = 33 << 20


class Case(NamedTuple):
    """A store, and how objects come into it (not through the store where that cannot write)."""

    store: Store
    put: Callable[[str, bytes], None]


def _local(request: pytest.FixtureRequest) -> Case:
    store = open_store(str(request.getfixturevalue("tmp_path") / "store"))
    return Case(store, store.put)


def _web(scheme: str) -> Callable[[pytest.FixtureRequest], Case]:
    def opened(request: pytest.FixtureRequest) -> Case:
        server: WebServer = request.getfixturevalue(f"{scheme}_server")
        root = f"/{uuid4().hex}"
        store = open_store(f"{server.url}{root}")
        return Case(
            store,
            lambda key, data: server.files.__setitem__(f"{root}/{checked_key(key, '')}", data),
        )

    return opened


def _cloud(scheme: str, fixture: str) -> Callable[[pytest.FixtureRequest], Case]:
    def opened(request: pytest.FixtureRequest) -> Case:
        stores: Stores = request.getfixturevalue(fixture)
        store = stores.open(f"{scheme}://{BUCKET}/{uuid4().hex}")
        return Case(store, store.put)

    return opened


OPENED = {
    "file": _local,
    "s3": _cloud("s3", "s3_stores"),
    "obs": _cloud("obs", "s3_stores"),
    "gs": _cloud("gs", "gs_stores"),
    "gcs": _cloud("gcs", "gs_stores"),
    "az": _cloud("az", "az_stores"),
    "azure": _cloud("azure", "az_stores"),
    "http": _web("http"),
    "https": _web("https"),
}
COMPLETE = sorted(set(STORES) - set(READ_ONLY))


@pytest.fixture(params=sorted(STORES))
def case(request: pytest.FixtureRequest) -> Case:
    return OPENED[request.param](request)


@pytest.fixture(params=COMPLETE)
def store(request: pytest.FixtureRequest) -> Store:
    return OPENED[request.param](request).store


def test_every_row_is_tested() -> None:
    assert set(OPENED) == set(STORES)


@pytest.mark.slow
def test_get_returns_what_is_there(case: Case) -> None:
    for data in (b"first", b"", b"\0last\xff" * 1000):
        case.put("folder/a key+with%20 signs é", data)
        assert case.store.get("folder/a key+with%20 signs é") == data
        assert case.store.exists("folder/a key+with%20 signs é")


@pytest.mark.slow
def test_downloads_bring_the_bytes_from_an_offset_on(case: Case) -> None:
    data = bytes(range(256)) * 9000
    case.put("a/k", data)
    for offset_bytes in (0, 1, len(data) - 1):
        blocks = list(case.store.download("a/k", offset_bytes))
        assert b"".join(blocks) == data[offset_bytes:]
        assert all(blocks)


def read(case: Case, key: str, offset_bytes: int = 0) -> list[bytes]:
    """A download as callers make it: tried again where an idle connection was reset."""
    return retried(lambda: list(case.store.download(key, offset_bytes)), 3)


def test_downloads_of_nothing_say_why(case: Case) -> None:
    case.put("k", b"123")
    case.put("empty", b"")
    for key, offset_bytes in (("k", 3), ("k", 500), ("empty", 0)):
        with pytest.raises(ShortObject, match=rf"/{key}: the object is shorter than requested"):
            read(case, key, offset_bytes)
    with pytest.raises(MissingObject, match=rf"{case.store.uri}/gone: there is no such"):
        read(case, "gone")
    with pytest.raises(StoreError, match=r"expected a key of names"):
        list(case.store.download("../k"))


def test_a_cancelled_download_ends(case: Case) -> None:
    case.put("k", bytes(3 << 20))
    before = case.store.download("k")
    before.cancel()
    with pytest.raises(StoreUnavailable, match=r"/k: the download was cancelled"):
        list(before)
    download = case.store.download("k")
    with pytest.raises(StoreUnavailable, match=r"/k: the download was cancelled"):
        for _ in download:
            download.cancel()
    after = case.store.download("k")
    assert sum(map(len, after)) == 3 << 20
    after.cancel()


def test_files_are_brought_whole(case: Case, tmp_path: Path) -> None:
    case.put("a/b", bytes(range(256)) * 5000)
    case.store.get_file("a/b", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == bytes(range(256)) * 5000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_get_returns_what_was_put_last(store: Store) -> None:
    for data in (b"first", b"", b"\0last\xff" * 1000):
        store.put("folder/a key+with%20 signs é", data)
        assert store.get("folder/a key+with%20 signs é") == data


def test_a_swap_writes_over_what_it_expects_alone(store: Store) -> None:
    assert not store.swap("k", b"0", b"1") and not store.exists("k")
    assert store.swap("k", None, b"1") and store.get("k") == b"1"
    assert not store.swap("k", None, b"2") and not store.swap("k", b"0", b"2")
    assert store.get("k") == b"1"
    assert store.swap("k", b"1", b"2") and store.get("k") == b"2"


def test_of_writers_side_by_side_one_swaps(store: Store) -> None:
    store.put("k", b"old")
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: store.swap("k", b"old", b"%d" % number), range(4)))
    assert won.count(True) == 1 and store.get("k") == b"%d" % won.index(True)


def test_files_round_trip(store: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "new" / "copy"
    source.write_bytes(bytes(range(256)) * 5000)
    store.put_file("a/b", source)
    store.get_file("a/b", copy)
    assert copy.read_bytes() == source.read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


@pytest.mark.slow
def test_large_objects_round_trip(store: Store, tmp_path: Path) -> None:
    data = bytes(1 << 20) * 32 + b"\1" * (1 << 20)
    (tmp_path / "large").write_bytes(data)
    store.put("put", data)
    store.put_file("put_file", tmp_path / "large")
    sizes = {info.key: info.size_bytes for info in store.list("put")}
    assert sizes == {"put": LARGE_BYTES, "put_file": LARGE_BYTES}
    assert store.get("put") == store.get("put_file") == data


def test_get_range_returns_exactly_what_was_asked(case: Case) -> None:
    case.put("k", bytes(range(200)))
    assert case.store.get_range("k", 0, 200) == bytes(range(200))
    assert case.store.get_range("k", 17, 3) == bytes([17, 18, 19])
    assert case.store.get_range("k", 199, 1) == bytes([199])


@pytest.mark.slow
@pytest.mark.parametrize("offset_bytes", [199, 200, 5000])
def test_get_range_refuses_a_shorter_object(case: Case, offset_bytes: int) -> None:
    case.put("k", bytes(200))
    with pytest.raises(ShortObject, match=r"/k: the object is shorter than requested"):
        case.store.get_range("k", offset_bytes, 2)


def test_missing_objects_are_named(case: Case, tmp_path: Path) -> None:
    store = case.store
    case.put("folder/there", b"")
    for key in ("gone", "folder", "folder/there/below"):
        for read in (store.get, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(MissingObject, match=rf"{store.uri}/{key}: there is no such"):
                read(key)
        with pytest.raises(MissingObject, match=rf"{store.uri}/{key}: there is no such"):
            store.get_file(key, tmp_path / "copy")
        assert not store.exists(key)
    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
def test_put_file_of_a_file_that_is_not_there_names_it(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no such file.*/nothing"):
        store.put_file("k", tmp_path / "nothing")
    assert not store.exists("k")


def test_list_is_in_key_order_and_by_prefix(store: Store) -> None:
    keys = ["a-b", "a/b", "a/c/d", "a0", "b", "é"]
    for key in reversed(keys):
        store.put(key, key.encode())
    assert list(store.list()) == [ObjectInfo(key, len(key.encode())) for key in keys]
    assert [info.key for info in store.list("a")] == ["a-b", "a/b", "a/c/d", "a0"]
    assert [info.key for info in store.list("a/")] == ["a/b", "a/c/d"]
    assert [info.key for info in store.list("a/c")] == ["a/c/d"]
    assert [info.key for info in store.list("nothing/here")] == []


def test_exists_and_delete(store: Store) -> None:
    store.put("k", b"1")
    store.put("k2", b"2")
    assert store.exists("k")
    store.delete("k")
    store.delete("k")
    assert not store.exists("k")
    assert store.get("k2") == b"2"


def test_the_md5_of_an_object_is_its_own_or_unknown(case: Case) -> None:
    data = bytes(range(200))
    case.put("k", data)
    keeps_none = case.store.uri.startswith(("file:", "http"))
    expected = None if keeps_none else hashlib.md5(data).hexdigest()
    assert case.store.md5("k") == expected


@pytest.mark.parametrize(
    "key", ["/etc/passwd", "../a", "a/../b", "a//b", ".", "", "a/", "a\\b", "a\0b"]
)
def test_keys_never_leave_the_root(case: Case, key: str, tmp_path: Path) -> None:
    store = case.store
    for call in (store.get, store.exists, store.delete, lambda key: store.put(key, b"")):
        with pytest.raises(StoreError, match=r"expected a key of names"):
            call(key)
    with pytest.raises(StoreError, match=r"expected a key of names"):
        store.put_file(key, tmp_path)
    with pytest.raises(StoreError, match=r"expected a key of names"):
        store.get_file(key, tmp_path / "copy")


def test_prefixes_never_leave_the_root(case: Case) -> None:
    with pytest.raises(StoreError, match=r"expected a key of names"):
        list(case.store.list("../other"))
