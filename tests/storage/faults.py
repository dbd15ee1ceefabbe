"""Faults that SeaweedFS never makes: a proxy that breaks answers, and answers to order."""

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

from adapt.platforms.local_stack import HOST
from tests.storage.broken_answers import RESET, Cut, Exchange, Fault, Faultless, Flip, Request


class _Order(NamedTuple):
    """Which requests a fault waits for."""

    fault: Fault
    key: str
    method: str


class FaultProxy:
    """Forwards HTTP to the S3 server, with faults to order.

    `cuts`: after how many bytes the next long enough bodies break off; `flips`: how many of the
    next bodies over 5000 bytes get one bit changed; `order` ties faults to keys. `latency_s` delays
    every request, `bytes_per_s` bounds what passes in both directions together.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.hostname and parts.port, target
        self.target = (parts.hostname, parts.port)
        self.cuts: deque[int] = deque()
        self.flips = 0
        self.latency_s = 0.0
        self.bytes_per_s = float("inf")
        self.requests: list[Request] = []
        self.closed = threading.Event()
        self.listener = socket.create_server((HOST, 0))
        self.endpoint_url = f"http://{HOST}:{self.listener.getsockname()[1]}"
        self._orders: list[_Order] = []
        self._clients: set[socket.socket] = set()
        self.is_away = False
        self._free_s = 0.0
        self._lock = threading.Lock()
        self._accept_from(self.listener)

    def order(self, fault: Fault, key: str = "", times: int = 1, method: str = "GET") -> None:
        """The next `times` requests of this method whose path contains `key` meet this fault."""
        with self._lock:
            self._orders += [_Order(fault, key, method)] * times

    def forget(self) -> None:
        """Drop the ordered faults that have met no request yet."""
        with self._lock:
            self._orders.clear()

    @property
    def num_ordered(self) -> int:
        """How many ordered faults have met no request yet."""
        return len(self._orders)

    def ranges(self, key: str = "", method: str = "GET") -> list[str | None]:
        """The Range header of each request so far whose path contains `key`."""
        with self._lock:
            met = [one for one in self.requests if one.method == method and key in one.path]
        return [one.range for one in met]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, every connection is reset and new ones are refused."""
        address = self.listener.getsockname()
        self.is_away = True
        _shut(self.listener)
        self.listener.close()
        following = socket.socket()
        following.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        following.bind(address)  # keeps the port; until it listens, it refuses
        self.reset_connections()
        try:
            yield
        finally:
            self.listener, self.is_away = following, False
            following.listen(128)
            self._accept_from(following)

    def outage(self, seconds: float) -> threading.Thread:
        """Be away for so many seconds; the outage has begun when this returns."""
        began = threading.Event()

        def absent() -> None:
            with self.away():
                began.set()
                self.closed.wait(seconds)

        thread = threading.Thread(target=absent, daemon=True)
        thread.start()
        began.wait()
        return thread

    def reset_connections(self) -> None:
        """Break every connection there is."""
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            _shut(client)

    def close(self) -> None:
        """End everything."""
        self.closed.set()
        _shut(self.listener)
        self.listener.close()
        self.reset_connections()

    def paced(self, num_bytes: int) -> None:
        """Wait until so many bytes may pass."""
        with self._lock:
            start_s = max(self._free_s, time.monotonic())
            self._free_s = start_s + num_bytes / self.bytes_per_s
            wait_s = self._free_s - time.monotonic()
        if wait_s > 0:
            self.closed.wait(wait_s)

    def ordered(self, request: Request) -> Fault | None:
        """Note a request; the fault that was ordered for it, if any."""
        with self._lock:
            self.requests.append(request)
            for order in self._orders:
                if order.method == request.method and order.key in request.path:
                    self._orders.remove(order)
                    return order.fault
        return None

    def by_length(self, body_bytes: int) -> Fault:
        """What a body of this length meets by `cuts` or `flips`, if anything."""
        with self._lock:
            if self.cuts and body_bytes > self.cuts[0]:
                return Cut(self.cuts.popleft())
            if self.flips and body_bytes > 5000:
                self.flips -= 1
                return Flip(5000)
        return Faultless()

    def _accept_from(self, listener: socket.socket) -> None:
        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, address = listener.accept()
                    serve = threading.Thread(target=self._serve, args=(client, address))
                    serve.daemon = True
                    serve.start()

        threading.Thread(target=accept, daemon=True).start()

    def _serve(self, client: socket.socket, address: object) -> None:
        with self._lock:
            self._clients.add(client)
        with client, suppress(OSError, HTTPException, ValueError):
            if not self.is_away:
                Exchange(client, address, self)
        with self._lock:
            self._clients.discard(client)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class CannedServer:
    """Answers each request by the next of `answers` (status, error code), then by 200."""

    def __init__(self) -> None:
        self.answers: deque[tuple[int, str]] = deque()
        self.num_requests = 0
        self.http = ThreadingHTTPServer((HOST, 0), self._handler())
        self.endpoint_url = f"http://{HOST}:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def _handler(canned) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                canned.num_requests += 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, code = canned.answers.popleft() if canned.answers else (200, "")
                body = (
                    f"<Error><Code>{code}</Code><Message>told to</Message></Error>"
                    if code
                    else "ok" * (self.command != "PUT")
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_PUT = do_HEAD = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        return Handler
