"""The protocol's contract over every row of STORES, and the parts of `store.py` that touch no
store.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from pydantic import ValidationError

from storage.config import StoreConfig, fitting_key
from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.store import ObjectInfo, Store
from storage.stores import BY_SMART_OPEN, STORES, Stores, open_store
from storage.uris import checked_key, join, split_uri
from tests.servers import BUCKET
from tests.storage.place_fixtures import *  # noqa: F403
from tests.storage.places import FtpServer, WebServer

LARGE_BYTES = 33 << 20


class Place(NamedTuple):
    """A store, and how objects come into it (not through the store where that cannot write)."""

    store: Store
    put: Callable[[str, bytes], None]


def _local(request: pytest.FixtureRequest) -> Place:
    store = open_store(str(request.getfixturevalue("tmp_path") / "store"))
    return Place(store, store.put)


def _remote(scheme: str) -> Callable[[pytest.FixtureRequest], Place]:
    def opened(request: pytest.FixtureRequest) -> Place:
        stores: Stores = request.getfixturevalue("s3_stores")
        store = stores.open(f"{scheme}://{BUCKET}/{uuid4().hex}")
        return Place(store, store.put)

    return opened


def _web(scheme: str) -> Callable[[pytest.FixtureRequest], Place]:
    def opened(request: pytest.FixtureRequest) -> Place:
        server: WebServer = request.getfixturevalue(f"{scheme}_server")
        root = f"/{uuid4().hex}"
        store = open_store(f"{server.url}{root}")
        return Place(
            store,
            lambda key, data: server.files.__setitem__(f"{root}/{checked_key(key, '')}", data),
        )

    return opened


def _webhdfs(request: pytest.FixtureRequest) -> Place:
    server: WebServer = request.getfixturevalue("http_server")
    store = open_store(f"{server.url.replace('http', 'webhdfs')}/data")
    return Place(store, store.put)


def _ftp(request: pytest.FixtureRequest) -> Place:
    server: FtpServer = request.getfixturevalue("ftp_server")
    store = open_store(f"ftp://{server.host}/data")
    return Place(store, store.put)


def _hdfs(scheme: str) -> Callable[[pytest.FixtureRequest], Place]:
    def opened(request: pytest.FixtureRequest) -> Place:
        request.getfixturevalue("hdfs_program")
        store = open_store(f"{scheme}://namenode:8020/data")
        return Place(store, store.put)

    return opened


OPENED = {
    "file": _local,
    "s3": _remote("s3"),
    "obs": _remote("obs"),
    "http": _web("http"),
    "https": _web("https"),
    "webhdfs": _webhdfs,
    "hdfs": _hdfs("hdfs"),
    "viewfs": _hdfs("viewfs"),
    "ftp": _ftp,
}
ELSEWHERE = {
    **dict.fromkeys(("gs", "gcs", "az", "azure"), "its package and a service of its own"),
    **dict.fromkeys(("sftp", "scp", "ssh"), "paramiko and a server of its own"),
    "ftps": "smart_open signs in without a way to name the server's authority",
}
"""Rows that cannot be had on this machine, and what they would need."""

COMPLETE = sorted(set(STORES) - set(BY_SMART_OPEN))
WRITABLE = sorted(set(STORES) - set(ELSEWHERE) - {"http", "https"})


@pytest.fixture(params=sorted(set(STORES) - set(ELSEWHERE)))
def place(request: pytest.FixtureRequest) -> Place:
    return OPENED[request.param](request)


@pytest.fixture(params=COMPLETE)
def store(request: pytest.FixtureRequest) -> Store:
    return OPENED[request.param](request).store


@pytest.fixture(params=WRITABLE)
def writable(request: pytest.FixtureRequest) -> Store:
    return OPENED[request.param](request).store


def test_every_row_is_tested_or_excused() -> None:
    assert set(OPENED) | set(ELSEWHERE) == set(STORES)
    assert not set(OPENED) & set(ELSEWHERE)


def test_get_returns_what_is_there(place: Place) -> None:
    for data in (b"first", b"", b"\0last\xff" * 1000):
        place.put("folder/a key+with%20 signs é", data)
        assert place.store.get("folder/a key+with%20 signs é") == data
        assert place.store.exists("folder/a key+with%20 signs é")


def test_downloads_bring_the_bytes_from_an_offset_on(place: Place) -> None:
    data = bytes(range(256)) * 9000
    place.put("a/k", data)
    for offset_bytes in (0, 1, len(data) - 1):
        blocks = list(place.store.download("a/k", offset_bytes))
        assert b"".join(blocks) == data[offset_bytes:]
        assert all(blocks)


def test_downloads_of_nothing_say_why(place: Place) -> None:
    place.put("k", b"123")
    place.put("empty", b"")
    for key, offset_bytes in (("k", 3), ("k", 500), ("empty", 0)):
        with pytest.raises(ShortObject, match=rf"/{key}: the object is shorter than asked"):
            list(place.store.download(key, offset_bytes))
    with pytest.raises(MissingObject, match=rf"{place.store.uri}/gone: there is no such"):
        list(place.store.download("gone"))
    with pytest.raises(StoreError, match=r"is not a key"):
        list(place.store.download("../k"))


def test_a_cancelled_download_ends(place: Place) -> None:
    place.put("k", bytes(3 << 20))
    before = place.store.download("k")
    before.cancel()
    with pytest.raises(StoreUnavailable, match=r"/k: the download was cancelled"):
        list(before)
    download = place.store.download("k")
    with pytest.raises(StoreUnavailable, match=r"/k: the download was cancelled"):
        for _ in download:
            download.cancel()
    after = place.store.download("k")
    assert sum(map(len, after)) == 3 << 20
    after.cancel()


def test_files_are_brought_whole(place: Place, tmp_path: Path) -> None:
    place.put("a/b", bytes(range(256)) * 5000)
    place.store.get_file("a/b", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == bytes(range(256)) * 5000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_get_returns_what_was_put_last(writable: Store) -> None:
    for data in (b"first", b"", b"\0last\xff" * 1000):
        writable.put("folder/a key+with%20 signs é", data)
        assert writable.get("folder/a key+with%20 signs é") == data


def test_files_round_trip(writable: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "new" / "copy"
    source.write_bytes(bytes(range(256)) * 5000)
    writable.put_file("a/b", source)
    writable.get_file("a/b", copy)
    assert copy.read_bytes() == source.read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_large_objects_round_trip(store: Store, tmp_path: Path) -> None:
    data = bytes(1 << 20) * 32 + b"\1" * (1 << 20)
    (tmp_path / "large").write_bytes(data)
    store.put("put", data)
    store.put_file("put_file", tmp_path / "large")
    sizes = {info.key: info.size_bytes for info in store.list("put")}
    assert sizes == {"put": LARGE_BYTES, "put_file": LARGE_BYTES}
    assert store.get("put") == store.get("put_file") == data


def test_get_range_returns_exactly_what_was_asked(place: Place) -> None:
    place.put("k", bytes(range(200)))
    assert place.store.get_range("k", 0, 200) == bytes(range(200))
    assert place.store.get_range("k", 17, 3) == bytes([17, 18, 19])
    assert place.store.get_range("k", 199, 1) == bytes([199])


@pytest.mark.parametrize("offset_bytes", [199, 200, 5000])
def test_get_range_refuses_a_shorter_object(place: Place, offset_bytes: int) -> None:
    place.put("k", bytes(200))
    with pytest.raises(ShortObject, match=r"/k: the object is shorter than asked"):
        place.store.get_range("k", offset_bytes, 2)


def test_missing_objects_are_named(place: Place, tmp_path: Path) -> None:
    store = place.store
    place.put("folder/there", b"")
    for key in ("gone", "folder", "folder/there/below"):
        for read in (store.get, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(MissingObject, match=rf"{store.uri}/{key}: there is no such"):
                read(key)
        with pytest.raises(MissingObject, match=rf"{store.uri}/{key}: there is no such"):
            store.get_file(key, tmp_path / "copy")
        assert not store.exists(key)
    assert not (tmp_path / "copy").exists()


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


@pytest.mark.parametrize(
    "key", ["/etc/passwd", "../a", "a/../b", "a//b", ".", "", "a/", "a\\b", "a\0b"]
)
def test_keys_never_leave_the_root(place: Place, key: str, tmp_path: Path) -> None:
    store = place.store
    for call in (store.get, store.exists, store.delete, lambda key: store.put(key, b"")):
        with pytest.raises(StoreError, match=r"is not a key"):
            call(key)
    with pytest.raises(StoreError, match=r"is not a key"):
        store.put_file(key, tmp_path)
    with pytest.raises(StoreError, match=r"is not a key"):
        store.get_file(key, tmp_path / "copy")


def test_prefixes_never_leave_the_root(place: Place) -> None:
    with pytest.raises(StoreError, match=r"is not a key"):
        list(place.store.list("../other"))


def test_keys_of_unfinished_writes_are_refused() -> None:
    with pytest.raises(StoreError, match=r"is not a key"):
        checked_key("a/.tmp-0123-k", "s3://b")


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"gopher://b/c: .*'gopher' \(known: az, azure, file, ftp"):
        Stores().open("gopher://b/c")
    with pytest.raises(StoreError, match=r"stores.s4: .*'s4' \(known: az, .*; expected a scheme"):
        Stores({"s4": StoreConfig()})


@pytest.mark.parametrize(
    "key", ["S3", "", "s3:", "s3:/b", "s3://", "s3://b/", "s3://b//c", "s3://b/../c", "https://u@h"]
)
def test_a_malformed_key_of_stores_is_named(key: str) -> None:
    with pytest.raises(StoreError) as caught:
        Stores({key: StoreConfig()})
    assert str(caught.value).startswith("stores")
    assert "expected a scheme as `s3`, or how URIs begin" in str(caught.value)
    assert repr(key) in str(caught.value)


KEYS = ("s3", "s3://data", "s3://data/private", "s3://data/private/x", "https://host", "file")


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://other/a", "s3"),
        ("S3://data/a", "s3://data"),
        ("s3://data", "s3://data"),
        ("s3://database/a", "s3"),
        ("s3://data/privately", "s3://data"),
        ("s3://data/private", "s3://data/private"),
        ("s3://data/private/x/y", "s3://data/private/x"),
        ("obs://data/private", None),
        ("https://host/x", "https://host"),
        ("http://host/x", None),
        ("/data/private", "file"),
    ],
)
def test_the_longest_key_holds_for_a_uri(uri: str, key: str | None) -> None:
    assert fitting_key(uri, KEYS) == fitting_key(uri, reversed(KEYS)) == key


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/c/d", ("s3", "b/c/d")),
        ("OBS://b", ("obs", "b")),
        ("file:///a/b", ("file", "/a/b")),
        ("a/b", ("file", "a/b")),
        ("/a b", ("file", "/a b")),
    ],
)
def test_split_uri(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


def test_join() -> None:
    assert join("s3://b/", "c", "", "d/e/") == "s3://b/c/d/e"
    assert join("s3://b") == "s3://b"
    assert join("/", "a") == "/a"
    assert join("file:///", "a") == "file:///a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"access_key_env": "A"}, "access_key_env and secret_key_env: expected both or neither"),
        ({"session_token_env": "A"}, "session_token_env: expected access_key_env"),
        ({"endpoint_url": "obs.example.com"}, "endpoint_url"),
        ({"endpoint_url": "https://obs.example.com/bucket"}, "endpoint_url"),
        ({"key": "secret"}, "Extra inputs"),
        ({"downloads": "obstore"}, "Extra inputs"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
def test_a_wrong_config_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StoreConfig.model_validate(fields)


def test_every_field_of_the_config_is_described() -> None:
    assert all(field.description for field in StoreConfig.model_fields.values())
