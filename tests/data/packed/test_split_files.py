"""The files beside the shards, as they arrive: damaged ones are downloaded again."""

import hashlib
import json
from pathlib import Path

import pytest

from adapt.data.packed.codecs import REPACK
from adapt.data.packed.split_files import read_manifest
from adapt.errors import DataError
from adapt.platforms.local_stack import S3Server
from storage.errors import StoreError
from storage.store import Store
from storage.stores import open_store
from tests.servers import stores_of
from tests.storage.broken_answers import Answer, Cut, Fault, Flip, Reset, Shorten
from tests.storage.conftest import *  # noqa: F403
from tests.storage.faults import FaultProxy
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import WebServer

FAULTS = {
    "flipped": Flip(700),
    "truncated": Shorten(600),
    "cut": Cut(600),
    "reset": Reset(600),
    "a page": Answer(200, page="<html><title>Sign in</title></html>"),
    "moved": Answer(301, "PermanentRedirect"),
}


@pytest.fixture
def stored(s3_server: S3Server, s3_uri: str, tiny_uri: str) -> Store:
    """The tiny dataset in the S3 server."""
    store = stores_of(s3_server).open(s3_uri)
    for name in ("index.npz", "manifest.json"):
        store.put_file(f"train/{name}", Path(tiny_uri, "train", name))
    return store


@pytest.fixture
def store(stored: Store, s3_server: S3Server, proxy: FaultProxy) -> Store:
    """The same behind the proxy."""
    return stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(stored.uri)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["index.npz", "manifest.json"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_arrives_damaged_is_downloaded_again(
    store: Store, proxy: FaultProxy, waits: list[float], file: str, name: str
) -> None:
    proxy.order(FAULTS[name], f"train/{file}", times=2)
    manifest, index = read_manifest(store, "train")
    assert len(index) == manifest.num_samples == 22
    assert proxy.num_ordered == 0 and len(waits) == 2


@pytest.mark.slow
def test_a_manifest_whose_checksum_arrives_wrong_is_downloaded_again(
    stored: Store, store: Store, proxy: FaultProxy, waits: list[float]
) -> None:
    """It is a manifest still, and it is the index that seems to be damaged."""
    page = stored.get("train/manifest.json")
    digest = page.index(json.loads(page)["index_sha256"].encode())
    digit = next(
        place for place in range(digest, digest + 64) if page[place : place + 1] in b"0246"
    )
    proxy.order(Flip(digit), "train/manifest.json")
    assert read_manifest(store, "train")[0].index_sha256 in page.decode()
    assert proxy.num_ordered == 0 and len(proxy.ranges("train/index.npz")) == 2


@pytest.mark.parametrize("fault", [Flip(700), Shorten(600)], ids=["flipped", "truncated"])
@pytest.mark.parametrize("file", ["index.npz", "manifest.json"])
def test_a_file_that_always_arrives_damaged_is_not_packed_again(
    store: Store, proxy: FaultProxy, waits: list[float], file: str, fault: Fault
) -> None:
    proxy.order(fault, f"train/{file}", times=9)
    with pytest.raises(
        StoreError, match=rf"train/{file}: expected .*; downloaded 3 times"
    ) as caught:
        read_manifest(store, "train")
    assert "pack" not in caught.value.fix and "the stored object is intact" in caught.value.fix
    assert proxy.num_ordered == 9 - 3


@pytest.mark.slow
def test_a_file_that_is_stored_damaged_is_to_be_packed_again(
    stored: Store, store: Store, proxy: FaultProxy, waits: list[float]
) -> None:
    data = bytearray(stored.get("train/index.npz"))
    data[700] ^= 1
    stored.put("train/index.npz", bytes(data))
    with pytest.raises(DataError, match=r"train/index.npz: expected sha256") as caught:
        read_manifest(store, "train")
    assert caught.value.fix == REPACK
    assert len(proxy.ranges("train/index.npz")) == 1, "no other download can be better"


def test_where_the_store_does_not_tell_the_object_is_to_be_compared_first(
    http_server: WebServer, tiny_uri: str, waits: list[float]
) -> None:
    for name in ("index.npz", "manifest.json"):
        data = bytearray(Path(tiny_uri, "train", name).read_bytes())
        data[700] ^= name == "index.npz"
        http_server.files[f"/data/train/{name}"] = bytes(data)
    with pytest.raises(DataError, match=r"train/index.npz: .*; downloaded 3 times") as caught:
        read_manifest(open_store(f"{http_server.url}/data"), "train")
    assert "compare the object's checksum in the store itself" in caught.value.fix


def test_the_stores_own_md5_is_that_of_the_bytes(stored: Store) -> None:
    data = stored.get("train/index.npz")
    assert stored.md5("train/index.npz") == hashlib.md5(data).hexdigest()
