"""What another attempt cures, over every kind of store: by attempts, by time, or not at all."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from adapt.platforms.local_stack import HOST
from storage.config import StoreConfig
from storage.errors import SilentStore, StoreError, StoreUnavailable, WrongAnswer
from storage.retry import outages_waited_for
from storage.store import Store
from storage.stores import Stores, open_store
from storage.transient import is_final, is_transient_status
from tests.servers import BUCKET, stores_of
from tests.storage.broken_answers import Answer, Cut, Fault, Reset
from tests.storage.cloud_servers import CloudServer
from tests.storage.faults import FaultProxy
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer

DATA = bytes(range(256)) * 5000
PAGE = "<!doctype html><title>Sign in</title>"
ONCE = {
    "a login page": Answer(200, page=PAGE),
    "301": Answer(301, "PermanentRedirect"),
    "307": Answer(307, "TemporaryRedirect"),
    "503": Answer(503),
    "408": Answer(408, "RequestTimeout"),
    "a reset": Reset(),
    "an empty answer": Cut(0),
}


class Behind:
    """A store behind a proxy, and the same beside it."""

    def __init__(self, scheme: str, request: pytest.FixtureRequest) -> None:
        name = uuid4().hex
        if scheme == "http":
            server: WebServer = request.getfixturevalue("http_server")
            self.proxy = FaultProxy(server.url)
            self.opened: Callable[[], Store] = lambda: open_store(
                f"{self.proxy.endpoint_url}/{name}"
            )
            self.upload = ""
            server.files[f"/{name}/k"] = DATA
            return
        found = request.getfixturevalue(f"{scheme}_server")
        stores = stores_of if scheme == "s3" else CloudServer.stores
        self.proxy = FaultProxy(found.endpoint_url)
        uri = f"{scheme}://{BUCKET}/{name}"
        behind = found._replace(endpoint_url=self.proxy.endpoint_url)
        self.opened = lambda: stores(behind).open(uri)
        self.upload = "POST" if scheme == "gs" else "PUT"
        stores(found).open(uri).put("k", DATA)


@pytest.fixture(params=["s3", "gs", "az", "http"])
def behind(request: pytest.FixtureRequest) -> Iterator[Behind]:
    found = Behind(request.param, request)
    yield found
    found.proxy.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ONCE)
def test_what_goes_wrong_once_is_retried(
    behind: Behind, name: str, waits: list[float], tmp_path: Path
) -> None:
    store, fault = behind.opened(), ONCE[name]
    assert store.exists("k")

    def met(call: Callable[[], object], method: str = "GET") -> object:
        behind.proxy.order(fault, method=method)
        result = call()
        assert behind.proxy.num_ordered == 0
        return result

    assert met(lambda: store.get("k")) == DATA
    assert met(lambda: store.get_range("k", 5, 9)) == DATA[5:14]
    met(lambda: store.get_file("k", tmp_path / "k"))
    assert (tmp_path / "k").read_bytes() == DATA
    assert len(waits) == 3
    if behind.upload:
        assert met(lambda: [info.key for info in store.list()]) == ["k"]
        met(lambda: store.put("new", b"new"), behind.upload)
        assert store.get("new") == b"new"


def test_a_wrong_answer_that_stays_is_named(behind: Behind, waits: list[float]) -> None:
    store = behind.opened()
    behind.proxy.order(Answer(200, page=PAGE), times=9)
    with pytest.raises(WrongAnswer, match=r"/k: expected .*, got a web page \(status 200, title"):
        store.get("k")
    assert behind.proxy.num_ordered == 9 - 5


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Reset(), Answer(503), Cut(0)], ids=["reset", "503", "cut"])
def test_a_first_request_is_retried_where_outages_are_waited_for(
    behind: Behind, waits: list[float], fault: Fault
) -> None:
    behind.proxy.order(fault, times=7)
    with outages_waited_for():
        assert behind.opened().get("k") == DATA
    assert behind.proxy.num_ordered == 0


@pytest.mark.slow
def test_a_store_that_is_away_at_first_is_waited_for(
    behind: Behind, caplog: pytest.LogCaptureFixture
) -> None:
    behind.proxy.outage(1.0)
    with outages_waited_for():
        assert behind.opened().get("k") == DATA
    (line,) = caplog.messages
    assert "/k: the store" in line and line.endswith("; retrying for up to 600 s")


def test_commands_end_at_once_where_the_first_request_fails(
    behind: Behind, waits: list[float]
) -> None:
    with behind.proxy.away(), pytest.raises(SilentStore, match=r"unreachable or broke off"):
        behind.opened().get("k")
    assert waits == []


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "https"])
def test_a_certificate_is_final_also_where_outages_are_waited_for(
    request: pytest.FixtureRequest, scheme: str, certificate: Path, waits: list[float]
) -> None:
    server = WebServer(certificate)  # nobody trusts it
    if scheme == "https":
        store = open_store(f"{server.url}/data")
    else:
        found = request.getfixturevalue(f"{scheme}_server")._replace(endpoint_url=server.url)
        stores = stores_of(found) if scheme == "s3" else found.stores()
        if scheme == "gs":
            pytest.importorskip("google.auth")
            request.getfixturevalue("monkeypatch").setattr(
                "google.auth.default", lambda **_: (_anonymous(), None)
            )
        store = stores.open(f"{scheme}://{BUCKET}/data")
    with outages_waited_for(), pytest.raises(StoreError, match=r"certificate .*not acc") as caught:
        store.get("k")
    assert type(caught.value) is StoreError and waits == []
    assert "CA_BUNDLE" in caught.value.fix
    server.close()


def _anonymous() -> object:
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()


def test_a_name_that_is_not_known_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = socket.getaddrinfo
    tries: list[str] = []

    def late(host: object, *given: object, **named: object) -> object:
        if host == "bucket.late.example":
            tries.append(str(host))
            if len(tries) < 4:
                raise socket.gaierror(-2, "Name or service not known")
            host = HOST
        return lookup(host, *given, **named)  # type: ignore[call-overload]  # as it came

    monkeypatch.setattr(socket, "getaddrinfo", late)
    server = WebServer()
    server.files["/data/k"] = DATA
    port = server.url.rpartition(":")[2]
    with outages_waited_for(lambda wait_s: time.sleep(min(wait_s, 0.01))):
        assert open_store(f"http://bucket.late.example:{port}/data").get("k") == DATA
    assert len(tries) == 4
    server.close()


def test_a_bucket_in_another_region_is_named_in_the_end(behind: Behind, waits: list[float]) -> None:
    store = behind.opened()
    behind.proxy.order(Answer(301, "PermanentRedirect"), times=9)
    with outages_waited_for(), pytest.raises(WrongAnswer, match=r"/k: .*(301|another region)"):
        store.get("k")
    assert 0 < behind.proxy.num_ordered <= 9 - 5


@pytest.mark.parametrize("answer", [b"", b"<ListBucketResult/>"])
def test_an_empty_answer_is_no_empty_list(answer: bytes, waits: list[float]) -> None:
    """Or a job would not find its checkpoints, and start over."""
    server = WebServer()
    config = StoreConfig(endpoint_url=server.url, access_key_env="A", secret_key_env="B")
    store = Stores({"s3": config}, {"A": "a", "B": "b"}).open("s3://bucket/runs")
    server.answers.extend([WebAnswer(200, answer, (("Content-Type", "application/xml"),))] * 5)
    with pytest.raises(WrongAnswer, match=r"s3://bucket/runs: the answer of the endpoint is not"):
        list(store.list())
    assert len(waits) == 4
    server.close()


UPLOADS = ["XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody", "RequestTimeout"]


@pytest.mark.slow
@pytest.mark.parametrize("code", UPLOADS)
def test_an_upload_that_arrived_damaged_is_sent_again(
    request: pytest.FixtureRequest, code: str, waits: list[float], tmp_path: Path
) -> None:
    behind = Behind("s3", request)
    store = behind.opened()
    (tmp_path / "file").write_bytes(DATA)
    behind.proxy.order(Answer(400, code), times=2, method="PUT")
    store.put("a", DATA)
    behind.proxy.order(Answer(400, code), times=2, method="PUT")
    store.put_file("b", tmp_path / "file")
    assert store.get("a") == store.get("b") == DATA
    assert behind.proxy.num_ordered == 0
    behind.proxy.close()


@pytest.mark.slow
def test_a_silent_body_is_the_stores_fault_not_the_files(
    request: pytest.FixtureRequest, waits: list[float], tmp_path: Path
) -> None:
    """botocore's timeouts are `OSError`s too."""
    from tests.storage.broken_answers import Stall

    found = request.getfixturevalue("s3_server")
    behind = Behind("s3", request)
    slow = found._replace(endpoint_url=behind.proxy.endpoint_url)
    uri = behind.opened().uri
    store = stores_of(slow, read_timeout_s=0.2, max_attempts=2).open(uri)
    behind.proxy.order(Stall(1000))
    store.get_file("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == DATA
    behind.proxy.order(Stall(1000), times=2)
    with pytest.raises(StoreUnavailable, match=r"/k: the store at .* broke off .*[Tt]imeout"):
        store.get_file("k", tmp_path / "k")
    assert len(waits) == 2
    behind.proxy.close()


def test_the_proxys_password_and_addresses_that_cannot_be_are_final() -> None:
    tunnel = OSError("Tunnel connection failed: 407 Proxy Authentication Required")
    assert is_final(requests.exceptions.ProxyError(tunnel))
    assert is_final(requests.exceptions.InvalidURL("no host"))
    assert not is_final(requests.exceptions.ProxyError(OSError("Tunnel: 503 Busy")))
    assert not is_final(requests.exceptions.ConnectionError(ConnectionResetError(104, "reset")))
    assert not is_final(requests.exceptions.JSONDecodeError("half an answer", "{", 1))


def test_statuses_of_a_busy_or_failing_service_are_transient() -> None:
    assert all(map(is_transient_status, (408, 425, 429, 500, 502, 503, 504)))
    assert not any(map(is_transient_status, (200, 301, 400, 401, 403, 404, 407, 409, 412, 416)))


def test_a_store_that_refuses_is_not_waited_for(
    request: pytest.FixtureRequest, waits: list[float]
) -> None:
    found = request.getfixturevalue("s3_server")
    config = StoreConfig(endpoint_url=found.endpoint_url, access_key_env="A", secret_key_env="B")
    store = Stores({"s3": config}, {"A": "wrong", "B": "wrong"}).open(f"s3://{BUCKET}/data")
    with outages_waited_for(), pytest.raises(StoreError, match=r"refuses the credentials"):
        store.get("k")
    assert waits == []
