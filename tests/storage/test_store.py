"""The protocol's contract over every row of STORES, and the parts of `store.py` that touch no
store.
"""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError

from storage.store import (
    STORES,
    MissingObject,
    ObjectInfo,
    Store,
    StoreConfig,
    StoreError,
    Stores,
    StoreUnavailable,
    checked_key,
    join,
    open_store,
    retried,
    split_uri,
)
from tests.servers import BUCKET

LARGE_BYTES = 33 << 20


def _local(request: pytest.FixtureRequest) -> Store:
    return open_store(str(request.getfixturevalue("tmp_path") / "store"))


def _remote(scheme: str) -> Callable[[pytest.FixtureRequest], Store]:
    def opened(request: pytest.FixtureRequest) -> Store:
        stores: Stores = request.getfixturevalue("s3_stores")
        return stores.open(f"{scheme}://{BUCKET}/{uuid4().hex}")

    return opened


OPENED = {"file": _local, "s3": _remote("s3"), "obs": _remote("obs")}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> Store:
    return OPENED[request.param](request)


def test_get_returns_what_was_put_last(store: Store) -> None:
    for data in (b"first", b"", b"\0last\xff" * 1000):
        store.put("folder/a key+with%20 signs é", data)
        assert store.get("folder/a key+with%20 signs é") == data


def test_files_round_trip(store: Store, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "new" / "copy"
    source.write_bytes(bytes(range(256)) * 5000)
    store.put_file("a/b", source)
    store.get_file("a/b", copy)
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


def test_get_range_returns_exactly_what_was_asked(store: Store) -> None:
    store.put("k", bytes(range(200)))
    assert store.get_range("k", 0, 200) == bytes(range(200))
    assert store.get_range("k", 17, 3) == bytes([17, 18, 19])
    assert store.get_range("k", 199, 1) == bytes([199])


@pytest.mark.parametrize("offset_bytes", [199, 200, 5000])
def test_get_range_refuses_a_shorter_object(store: Store, offset_bytes: int) -> None:
    store.put("k", bytes(200))
    with pytest.raises(StoreError, match=r"/k: the object is shorter than asked"):
        store.get_range("k", offset_bytes, 2)


def test_missing_objects_are_named(store: Store, tmp_path: Path) -> None:
    store.put("folder/there", b"")
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
def test_keys_never_leave_the_root(store: Store, key: str, tmp_path: Path) -> None:
    for call in (store.get, store.exists, store.delete, lambda key: store.put(key, b"")):
        with pytest.raises(StoreError, match=r"is not a key"):
            call(key)
    with pytest.raises(StoreError, match=r"is not a key"):
        store.put_file(key, tmp_path)
    with pytest.raises(StoreError, match=r"is not a key"):
        store.get_file(key, tmp_path / "copy")


def test_prefixes_never_leave_the_root(store: Store) -> None:
    with pytest.raises(StoreError, match=r"is not a key"):
        list(store.list("../other"))


def test_keys_of_unfinished_writes_are_refused() -> None:
    with pytest.raises(StoreError, match=r"is not a key"):
        checked_key("a/.tmp-0123-k", "s3://b")


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"gs://b/c.*'gs' \(known: file, obs, s3\)"):
        Stores().open("gs://b/c")
    with pytest.raises(StoreError, match=r"stores.gcs: .*'gcs' \(known: file, obs, s3\)"):
        Stores({"gcs": StoreConfig()})


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
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
def test_a_wrong_config_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StoreConfig.model_validate(fields)


def test_every_field_of_the_config_is_described() -> None:
    assert all(field.description for field in StoreConfig.model_fields.values())


def test_retries_are_bounded_and_jittered(waits: list[float]) -> None:
    calls = []

    def fails() -> None:
        calls.append(1)
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable, match=r"away"):
        retried(fails, max_attempts=9, first_delay_s=1.0, longest_delay_s=4.0)
    assert len(calls) == 9
    assert len(waits) == 8
    assert all(0 <= wait <= min(4, 2**n) for n, wait in enumerate(waits))
    assert len(set(waits)) == 8


def test_only_passing_failures_are_retried(waits: list[float]) -> None:
    outcomes = iter([StoreUnavailable("once"), StoreError("for good")])

    def fails() -> None:
        raise next(outcomes)

    with pytest.raises(StoreError, match=r"for good"):
        retried(fails, max_attempts=9)
    assert len(waits) == 1
