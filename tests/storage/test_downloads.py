"""Downloads: bytes as they arrive, one attempt each, and an end when they are cancelled."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from adapt.platforms.local_stack import S3Server
from storage.downloads import BLOCK_BYTES, BlockDownload, Body, unstoppable
from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.store import Download, Store
from storage.stores import open_store
from tests.servers import BUCKET, stores_of
from tests.storage.broken_answers import Answer, Cut, Reset, Stall, Trickle
from tests.storage.cloud_servers import CloudServer
from tests.storage.faults import FaultProxy
from tests.storage.web_fixtures import http_server  # noqa: F401
from tests.storage.web_server import WebServer

DATA = os.urandom(3 << 20)
LONG_S = 20.0


class Remote(NamedTuple):
    """The store behind the proxy, and one beside it."""

    store: Store
    direct: Store
    proxy: FaultProxy


@pytest.fixture(params=["s3", "gs", "az"])
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    """A store behind a proxy with the object `k`, which has answered once."""
    scheme, root = request.param, f"{request.param}://{BUCKET}/{uuid4().hex}"
    server = request.getfixturevalue(f"{scheme}_server")
    stores = stores_of if scheme == "s3" else CloudServer.stores
    proxy = FaultProxy(server.endpoint_url)
    behind = server._replace(endpoint_url=proxy.endpoint_url)
    found = Remote(
        stores(behind, read_timeout_s=LONG_S).open(root), stores(server).open(root), proxy
    )
    found.direct.put("k", DATA)
    assert found.store.exists("k")
    yield found
    proxy.close()


@pytest.fixture
def store(remote: Remote) -> Store:
    return remote.store


@pytest.fixture
def proxy(remote: Remote) -> FaultProxy:
    return remote.proxy


def _ended(download: Download, blocks: list[bytes]) -> tuple[threading.Thread, list[StoreError]]:
    """A thread that collects blocks, and the error it ends with."""
    errors: list[StoreError] = []

    def collect() -> None:
        try:
            for block in download:
                blocks.append(bytes(block))
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    return thread, errors


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_bytes_from_an_offset_on(store: Store) -> None:
    for offset_bytes in (0, 1, BLOCK_BYTES, len(DATA) - 1):
        assert b"".join(store.download("k", offset_bytes)) == DATA[offset_bytes:]


def test_a_trickle_is_seen_while_it_trickles(store: Store, proxy: FaultProxy) -> None:
    proxy.order(Trickle(100_000, step_bytes=8, every_s=0.05))
    blocks: list[bytes] = []
    download = store.download("k")
    thread, errors = _ended(download, blocks)
    _until(lambda: sum(map(len, blocks)) >= 100_040)
    download.cancel()
    thread.join(LONG_S / 2)
    assert not thread.is_alive()
    assert isinstance(errors[0], StoreUnavailable)
    assert b"".join(blocks) == DATA[: sum(map(len, blocks))]


def test_a_download_that_waits_in_vain_is_cancelled(store: Store, proxy: FaultProxy) -> None:
    proxy.order(Stall(100_000))
    blocks: list[bytes] = []
    download = store.download("k")
    thread, errors = _ended(download, blocks)
    _until(lambda: sum(map(len, blocks)) >= 100_000)
    download.cancel()
    thread.join(LONG_S / 2)
    assert not thread.is_alive(), "it waits on for the store"
    assert isinstance(errors[0], StoreUnavailable)
    assert "the download was cancelled" in str(errors[0])


@pytest.mark.parametrize("fault", [Cut(2_000_000), Reset(2_000_000)], ids=["cut", "reset"])
def test_a_body_that_breaks_off_says_where(
    store: Store, proxy: FaultProxy, fault: Cut | Reset
) -> None:
    proxy.order(fault)
    blocks: list[bytes] = []
    with pytest.raises(StoreUnavailable, match=r"/k: the answer broke off at byte \d+ .*check"):
        for block in store.download("k", 5):
            blocks.append(bytes(block))
    arrived = b"".join(blocks)
    assert DATA[5:].startswith(arrived)
    assert arrived + b"".join(store.download("k", 5 + len(arrived))) == DATA[5:]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Answer(503), Answer(500, "InternalError"), Reset()])
def test_a_download_is_one_attempt(
    store: Store, proxy: FaultProxy, waits: list[float], fault: Answer | Reset
) -> None:
    requests = len(proxy.ranges())
    proxy.order(fault)
    with pytest.raises(StoreUnavailable, match=r"/k: "):
        list(store.download("k"))
    assert len(proxy.ranges()) == requests + 1
    assert waits == []
    assert b"".join(store.download("k")) == DATA


def test_refusals_are_told_apart(store: Store, remote: Remote) -> None:
    remote.direct.put("empty", b"")
    with pytest.raises(MissingObject, match=r"/gone: there is no such object"):
        list(store.download("gone"))
    for key, offset_bytes in (("k", len(DATA)), ("k", len(DATA) + 9), ("empty", 0)):
        with pytest.raises(ShortObject, match=rf"/{key}: the object is shorter than requested"):
            list(store.download(key, offset_bytes))


def test_a_download_contacts_nobody_before_its_iteration(store: Store, proxy: FaultProxy) -> None:
    requests = len(proxy.requests)
    store.download("k").cancel()
    store.download("k")
    assert len(proxy.requests) == requests


@pytest.mark.slow
def test_downloads_left_or_cancelled_leave_no_connection(store: Store, proxy: FaultProxy) -> None:
    def leave(number: int) -> None:
        download = store.download("k")
        blocks = iter(download)
        next(blocks)
        if number % 2:
            download.cancel()
        with pytest.raises(StoreUnavailable) if number % 2 else pytest.raises(StopIteration):
            if number % 2 == 0:
                blocks.close()  # type: ignore[attr-defined]  # it is a generator
            list(blocks) if number % 2 else next(blocks)

    leave(0)
    leave(1)
    before = _sockets()
    for number in range(8):
        leave(number)
    _until(lambda: _sockets() <= before + 1)


def _sockets() -> int:
    """Open sockets of this process that lead elsewhere than the proxy's own ends."""
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(link.is_symlink() and os.readlink(link).startswith("socket") for link in links)  # noqa: PTH115


@pytest.mark.slow
def test_a_forked_process_downloads(store: Store) -> None:
    assert b"".join(store.download("k")) == DATA
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(b"".join(store.download("k")) == DATA))
    process.daemon = True
    process.start()
    process.join(LONG_S)
    assert process.exitcode == 0
    assert results.get() is True


def test_a_range_that_is_ignored_is_named(http_server: WebServer, s3_server: S3Server) -> None:  # noqa: F811
    http_server.files["/bucket/k"] = DATA
    http_server.ranges = False
    store = stores_of(s3_server._replace(endpoint_url=http_server.url)).open("s3://bucket")
    assert b"".join(store.download("k")) == DATA
    with pytest.raises(
        StoreError, match=r"/k: expected bytes from 5 on, .* drops the Range header"
    ):
        list(store.download("k", 5))


class Broken:
    """A file whose second read fails."""

    def __init__(self) -> None:
        self.reads = iter([b"123"])
        self.closed = 0

    def read1(self, size: int, /) -> bytes:
        try:
            return next(self.reads)
        except StopIteration:
            raise OSError("disk on fire") from None

    def close(self) -> None:
        self.closed += 1


def test_a_file_is_closed_whatever_happens() -> None:
    file = Broken()
    download = BlockDownload("file:///k", 7, lambda: Body(file, unstoppable))
    with pytest.raises(StoreUnavailable, match=r"broke off at byte 10 \(OSError: disk on fire\)"):
        list(download)
    assert file.closed == 1


def test_a_local_file_is_downloaded_in_blocks(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("k", DATA)
    assert max(map(len, store.download("k"))) <= BLOCK_BYTES
    (tmp_path / "k").chmod(0o600)
    (tmp_path / "k").unlink()
    with pytest.raises(MissingObject):
        list(store.download("k"))
