"""Hostile clients and full servers: right codes, bounded memory, and a server that goes on."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest

from adapt.errors import JobError
from adapt.serve.limits import MB, Limits
from adapt.serve.protocol import LimitedProtocol
from adapt.serve.server import Server
from tests.launch.rank_scripts import wait_until
from tests.serve.conftest import Pointwise, running
from tests.serve.pictures import RGB, encoded
from tests.serve.test_routes import INFER, PNG, refused


class Held(Pointwise):
    """Computes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()
        self.let.set()

    def predict_prepared(self, images: Any, *options: Any, **more: Any) -> Any:
        assert self.let.wait(60)
        return super().predict_prepared(images, *options, **more)


@pytest.fixture
def held() -> Iterator[Held]:
    model = Held()
    yield model
    model.let.set()


def post(client: httpx.Client, content: Any = None, **headers: str) -> httpx.Response:
    return client.post("/invocations", content=content or encoded(), headers=PNG | headers)


def raw(server: Server, *parts: bytes, wait_s: float = 0.0) -> bytes:
    """Everything that the server sends until it closes the connection."""
    found = b""
    where = server.listener.getsockname()
    with socket.create_connection(where, timeout=20) as connection, suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
            time.sleep(wait_s)
        while part := connection.recv(1 << 16):
            found += part
    return found


@pytest.mark.slow
def test_large_bodies_are_refused_by_their_length_or_as_they_come() -> None:
    with running(Pointwise, max_body_bytes=MB) as (client, server):
        answer = post(client, b"\0" * (3 * MB))
        refused(answer, 413, f"body: expected at most {MB} bytes, got {3 * MB} or more")
        refused(post(client, iter([b"\0" * 65536] * 40)), 413, f"expected at most {MB} bytes, got")
        length = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
        head = length + b"content-length: 99999999999999\r\nexpect: 100-continue\r\n\r\n"
        assert raw(server, head).startswith(b"HTTP/1.1 413 ")
        assert post(client).status_code == 200
        assert server.service.bodies.total == server.service.slots.total == 0


def test_the_rest_of_a_refused_body_is_awaited_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LimitedProtocol, "rest_s", 0.5)
    with running(Pointwise, max_body_bytes=MB) as (client, server):
        head = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
        head += b"content-length: 9999999\r\n\r\n"
        started_s = time.monotonic()
        raw(server, head, *[b"0"] * 400, wait_s=0.05)
        assert time.monotonic() - started_s < 10, "less than the 20 s of the whole body"
        assert post(client).status_code == 200


def test_slow_headers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "head_s", 0.5)
    with running(Pointwise) as (client, server):
        for sent in (b"", b"GET /ping HT"):
            started_s = time.monotonic()
            assert raw(server, sent) == b""
            assert time.monotonic() - started_s < 10
        again = b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\nGET /pi"
        assert raw(server, again).count(b"HTTP/1.1 200") == 1
        assert client.get("/ping").status_code == 200


def test_slow_bodies_end_and_hold_no_place() -> None:
    head = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
    head += b"content-length: 1000\r\n\r\n"
    with running(Pointwise, body_s=1.5, queue=2) as (client, server), ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(raw, server, head, b"ab") for _ in range(8)]
        wait_until(lambda: server.service.bodies.total == 16, timeout_s=10)
        assert post(client).status_code == 200, "others are served meanwhile"
        for one in slow:
            answer = one.result()
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b"expected all of it within 1.5 s, got 2 bytes" in answer
        assert server.service.bodies.total == 0


def sent_on(server: Server, head: bytes, seconds: float) -> bytes:
    """The answer that a client finds which sends for so long, whatever comes meanwhile."""
    with socket.create_connection(server.listener.getsockname(), timeout=20) as connection:
        connection.sendall(head)
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            connection.sendall(b"x")
            time.sleep(0.02)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


SLOW = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
SLOW += b"content-length: 90000\r\n"


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (SLOW + b"\r\n", b"HTTP/1.1 408 "),
        (SLOW.replace(b"/png", b"/tiff") + b"connection: close\r\n\r\n", b"HTTP/1.1 415 "),
        (b"no HTTP\r\n\r\n", b"HTTP/1.1 400 "),
    ],
)
def test_a_client_that_sends_on_after_the_end_still_gets_its_answer(
    head: bytes, answer: bytes
) -> None:
    """Closed at once, the connection would be reset by its next byte, and the answer be lost."""
    with running(Pointwise, body_s=0.2) as (client, server):
        found = sent_on(server, head, 0.8)
        assert found.startswith(answer) and found.endswith(b"}"), found
        wait_until(lambda: len(server.server_state.connections) <= 1, timeout_s=5)
        assert client.get("/ping").status_code == 200


def test_an_answered_client_that_never_ends_is_dropped_and_delays_no_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with running(Pointwise, body_s=0.2) as (_, server):
            endless = pool.submit(sent_on, server, SLOW + b"\r\n", 30)
            wait_until(lambda: any(map(_is_answered, server.server_state.connections)), 10)
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 5, "less than the 10 s of the rest of a body"
        assert isinstance(endless.exception(), ConnectionError)
    monkeypatch.setattr(LimitedProtocol, "rest_s", 0.3)
    with running(Pointwise, body_s=0.2) as (_, server), pytest.raises(ConnectionError):
        sent_on(server, SLOW + b"\r\n", 30)


def _is_answered(connection: object) -> bool:
    return isinstance(connection, LimitedProtocol) and connection._closing.ended


@pytest.mark.slow
def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "unread_s", 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3)).astype(np.uint8)
    body = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1500,1500,3],'
    body += b'"parameters":{"binary_data_size":6750000}}],'
    body += b'"outputs":[{"name":"entropy","parameters":{"binary_data":true}}]}'
    head = b"POST /v2/models/segadapt/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n"
    head += b"inference-header-content-length: %d\r\n\r\n"
    with running(Pointwise) as (_, server):
        where = server.listener.getsockname()
        with socket.create_connection(where, timeout=60) as connection:
            connection.sendall(head % (len(body) + 6750000, len(body)) + body + pixels.tobytes())
            assert connection.recv(12) == b"HTTP/1.1 200"
            wait_until(lambda: not server.server_state.connections, timeout_s=60)


def test_a_full_queue_answers_429_with_a_time(held: Held) -> None:
    with running(lambda: held, queue=3) as (client, server), ThreadPoolExecutor(8) as pool:
        held.let.clear()
        first = [pool.submit(post, client) for _ in range(3)]
        wait_until(lambda: server.service.slots.total == 3, timeout_s=10)
        answer = post(client)
        found = refused(answer, 429, "the server is full: expected room for one more image, got 3")
        assert int(answer.headers["retry-after"]) >= 1 and "retry after" in found["fix"]
        assert client.get("/ping").status_code == 200, "the event loop is free"
        held.let.set()
        assert [one.result().status_code for one in first] == [200] * 3
        assert post(client).status_code == 200


@pytest.mark.slow
def test_memory_for_bodies_is_limited() -> None:
    limits = {"bodies_bytes": 4 * MB, "max_body_bytes": 4 * MB}
    with running(Pointwise, **limits) as (client, server), ThreadPoolExecutor(2) as pool:
        head = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
        head += b"connection: close\r\ncontent-length: %d\r\n\r\n"
        large = pool.submit(raw, server, head % (3 * MB), b"0" * (3 * MB - 1), b"0", wait_s=1.5)
        wait_until(lambda: server.service.bodies.total > 2 * MB, timeout_s=10)
        answer = post(client, b"1" * (3 * MB))
        refused(answer, 429, "the server is full: expected room for the body")
        assert large.result().startswith(b"HTTP/1.1 400 ")
    with pytest.raises(JobError, match=r"max_body_mb: expected at most 4, .* got 5"):
        Limits(max_body_bytes=5 * MB, bodies_bytes=4 * MB)


def test_a_client_that_is_gone_costs_no_computation(held: Held) -> None:
    with running(lambda: held) as (client, server), ThreadPoolExecutor(1) as pool:
        held.let.clear()
        first = pool.submit(post, client)
        wait_until(lambda: server.service.slots.total == 1, timeout_s=10)
        done = len(held.passes)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/invocations", content=encoded(), headers=PNG, timeout=0.3)
        wait_until(lambda: server.service.slots.total == 1, timeout_s=10)
        held.let.set()
        assert first.result().status_code == 200 and post(client).status_code == 200
        assert held.passes[done:] == [1, 1], "the first and the last"
        assert 'segadapt_requests_total{code="499"' in client.get("/metrics").text


def test_a_late_result_is_503(held: Held) -> None:
    with running(lambda: held, answer_s=0.5) as (client, _):
        held.let.clear()
        answer = post(client)
        refused(answer, 503, "segadapt: expected a result within 0.5 s, got none")
        assert answer.headers["retry-after"]
        held.let.set()
        assert post(client).status_code == 200


def test_garbage_is_no_http(held: Held) -> None:
    with running(lambda: held) as (client, server):
        answer = raw(server, b"\x16\x03\x01\x02\0hello\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        found = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert found["error"].startswith("request: expected HTTP/1.1, got other bytes")
        assert found["fix"] == "speak HTTP/1.1, without TLS"
        assert raw(server, b"GET /" + b"a" * 200_000).startswith(b"HTTP/1.1 400 ")
        assert client.get("/ping").status_code == 200


def test_a_broken_body_behind_its_answer_ends_the_connection(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    with running(lambda: held) as (client, server):
        answer = raw(server, head, b"no size\r\n", wait_s=0.3)
        assert answer.startswith(b"HTTP/1.1 404 ") and answer.count(b"HTTP/1.1") == 1
        assert client.get("/ping").status_code == 200
    assert not [line for line in caplog.records if line.exc_info or line.levelname == "ERROR"]


def test_whole_addresses_upgrades_and_pipelines_are_answered(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 9112, 3.2.2 and 9.3.2; RFC 9110, 7.8."""
    rest = b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    upgrade = b"upgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
    with running(lambda: held) as (client, server):
        for head in (
            b"GET http://a:80/ping?x=1" + rest + b"\r\n",
            b"GET /ping" + rest.replace(b"close", b"upgrade, close") + upgrade,
            b"GET /ping HTTP/1.0\r\n\r\n",
        ):
            assert raw(server, head).startswith(b"HTTP/1.1 200 "), head
        three = b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n" * 2 + b"GET /ping" + rest + b"\r\n"
        assert raw(server, three).count(b"HTTP/1.1 200 ") == 3
        assert 'route="/ping"} 6.0' in client.get("/metrics").text
    assert not [line for line in caplog.records if "install" in line.getMessage()]


def test_too_many_connections_are_told_so(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(lambda: held) as (client, server):
        assert client.get("/ping").status_code == 200
        monkeypatch.setattr("adapt.serve.server.MAX_CONNECTIONS", 2)
        answer = raw(server, b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 2" in answer
        assert b"connections: expected fewer at the same time" in answer
        assert client.get("/v2/health/live").status_code == 200, "alone again"


def test_many_small_tensors_of_one_request_are_computed(held: Held) -> None:
    with running(lambda: held, queue=4, batch_size=4) as (client, _):
        values = {"name": "image", "datatype": "UINT8", "shape": [4, 60, 100, 3]}
        values |= {"data": np.stack([RGB] * 4).ravel().tolist()}
        answer = client.post(INFER, json={"inputs": [values]})
        assert answer.json()["outputs"][0]["shape"] == [4, 60, 100]
        assert held.passes == [4, 1, 1, 4], "the warm-up, and the four of them together"
