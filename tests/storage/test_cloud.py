"""What gs and az share: checkpoints, faults that are retried, and messages with their fix."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from adapt.checkpoint.files import fetch_weights
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.snapshot import Moment, Snapshot
from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.store import ObjectInfo, Store
from storage.stores import Stores
from tests.servers import BUCKET
from tests.storage.broken_answers import Answer, Cut
from tests.storage.cloud_servers import CloudServer
from tests.storage.faults import FaultProxy

DATA = bytes(range(256)) * 9000


@pytest.fixture(params=["gs", "az"])
def server(request: pytest.FixtureRequest) -> CloudServer:
    found: CloudServer = request.getfixturevalue(f"{request.param}_server")
    return found


def opened(server: CloudServer, **changes: object) -> Store:
    return server.stores(**changes).open(f"{server.scheme}://{BUCKET}/{uuid4().hex}")


def test_a_run_folder_saves_and_loads_checkpoints(server: CloudServer, tmp_path: Path) -> None:
    weights = {"layer.weight": torch.arange(6.0).reshape(2, 3)}
    run = RunFolder(opened(server))
    assert run.newest_valid() is None
    for step in (5, 10, 15):
        moment, spec = Moment(step, 0, 0.0), f"seed: {step}\n"
        saved = run.save(Snapshot(moment, {"step": step}, weights, spec, {}))
    run.mark_best(saved, 0.5)
    found = run.newest_valid()
    assert found is not None and found[0] == saved.name and found[1]["step"] == 15
    assert run.spec_text(saved.name) == "seed: 15\n"
    key = f"{saved.name}/weights.safetensors"
    loaded = fetch_weights(run.store, key, tmp_path / "w", saved.sha256)
    assert torch.equal(loaded["layer.weight"], weights["layer.weight"])
    run.retain(1, saved.name)
    assert run.names() == [saved.name]


def test_answers_that_fail_or_break_off_are_retried(
    server: CloudServer, waits: list[float], tmp_path: Path
) -> None:
    proxy = FaultProxy(server.endpoint_url)
    behind = server._replace(endpoint_url=proxy.endpoint_url)
    store = opened(behind)
    store.put("k", DATA)
    for fault in (Answer(503), Answer(429), Cut(50_000)):
        proxy.order(fault, times=3)
        assert store.get("k") == store.get_range("k", 0, len(DATA)) == DATA
        store.get_file("k", tmp_path / "k")
        assert (tmp_path / "k").read_bytes() == DATA
    assert len(waits) == 9
    upload = "POST" if server.scheme == "gs" else "PUT"
    proxy.order(Answer(503), times=2, method=upload)
    store.put("new", b"1")
    proxy.order(Answer(503), times=2)
    assert [info.key for info in store.list()] == ["k", "new"]
    assert len(waits) == 13 and proxy.num_ordered == 0
    proxy.close()


def test_retries_end(server: CloudServer, waits: list[float]) -> None:
    proxy = FaultProxy(server.endpoint_url)
    store = opened(server._replace(endpoint_url=proxy.endpoint_url), max_attempts=3)
    proxy.order(Answer(503), times=3)
    with pytest.raises(StoreUnavailable, match=r"/k: the store fails \(503.*Fix: see the store"):
        store.get("k")
    assert len(waits) == 2 and proxy.num_ordered == 0
    proxy.close()


def test_folders_that_consoles_make_are_not_listed(server: CloudServer) -> None:
    root = opened(server)
    root.put("a/k", b"1")
    bucket = server.stores().open(f"{server.scheme}://{BUCKET}")
    inner = getattr(bucket, "bucket")  # noqa: B009
    name = root.uri.rpartition("/")[2]
    inner.write(f"{name}/folder/", io.BytesIO(), 0)
    assert list(root.list()) == [ObjectInfo("a/k", 1)]


MISSING = {"gs": "there is no bucket 'absent'", "az": "there is no container 'absent'"}


def _calls(store: Store) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: store.get("k"),
        "range": lambda: store.get_range("k", 1, 2),
        "put": lambda: store.put("k", b"1"),
        "list": lambda: list(store.list()),
        "exists": lambda: store.exists("k"),
        "delete": lambda: store.delete("k"),
    }


@pytest.mark.parametrize("call", ["get", "range", "put", "list", "exists", "delete"])
def test_a_bucket_that_is_not_there_is_named(server: CloudServer, call: str) -> None:
    store = server.stores().open(f"{server.scheme}://absent/data")
    with pytest.raises(StoreError) as caught:
        _calls(store)[call]()
    assert not isinstance(caught.value, MissingObject | ShortObject | StoreUnavailable)
    assert f"{server.scheme}://absent/data" in caught.value.problem
    assert MISSING[server.scheme] in caught.value.problem
    assert caught.value.fix.startswith(f"check the URI and stores.{server.scheme}, or create the")


@pytest.mark.parametrize("call", ["get", "range", "put", "list", "exists", "delete"])
def test_an_unreachable_store_is_named_without_retries(
    absent_uri: str, waits: list[float], server: CloudServer, call: str
) -> None:
    store = opened(server._replace(endpoint_url=absent_uri))
    with pytest.raises(StoreError, match=r"the store is unreachable or broke off") as caught:
        _calls(store)[call]()
    assert not isinstance(caught.value, StoreUnavailable)
    assert f"NO_PROXY and stores.{server.scheme}" in caught.value.fix
    assert waits == [] and "sig=" not in str(caught.value)


def test_a_store_that_goes_away_is_waited_for(server: CloudServer, waits: list[float]) -> None:
    proxy = FaultProxy(server.endpoint_url)
    store = opened(server._replace(endpoint_url=proxy.endpoint_url), max_attempts=3)
    store.put("k", b"1")
    with proxy.away():
        for call in _calls(store).values():
            with pytest.raises(StoreUnavailable, match=r"the store is unreachable or broke off"):
                call()
    assert len(waits) == 2 * len(_calls(store))
    assert store.get("k") == b"1"
    proxy.close()


def test_a_web_page_is_no_object(server: CloudServer, waits: list[float]) -> None:
    proxy = FaultProxy(server.endpoint_url)
    store = opened(server._replace(endpoint_url=proxy.endpoint_url))
    proxy.order(Answer(200, page="<!doctype html><title>Sign in</title>"), times=5)
    message = r"/k: expected the object, got a web page \(status 200, title 'Sign in'\).*Fix: check"
    with pytest.raises(StoreError, match=message):
        store.get("k")
    proxy.close()


@pytest.mark.parametrize(
    ("scheme", "module"), [("gs", "google.cloud.storage"), ("az", "azure.storage.blob")]
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str
) -> None:
    for name in list(sys.modules):
        if name.startswith((f"storage.{scheme}", module)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"expected the package {module}\S*, got none installed. Fix: pip install 'segadapt"
    with pytest.raises(StoreError, match=message):
        Stores().open(f"{scheme}://bucket/data")
