"""One connection through the proxy: answers passed on, or broken as stores and networks do it.

Each way is a `Fault`; `Exchange` does what they need of HTTP.
"""

import io
import socket
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from tests.storage.faults import FaultProxy

_BLOCK_BYTES = 16 << 10
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing throws away what is unsent and resets the connection."""


class Request(NamedTuple):
    """A request that came through the proxy; `range` is its header, or None for the whole."""

    method: str
    path: str
    range: str | None


class Fault(ABC):
    """What goes wrong with one answer."""

    @abstractmethod
    def play(self, exchange: "Exchange") -> None:
        """Answer one request wrongly."""


@dataclass(frozen=True)
class Cut(Fault):
    """The body breaks off: its connection is closed in order."""

    after_bytes: int

    def play(self, exchange: "Exchange") -> None:
        """Pass on the first bytes."""
        exchange.pass_on(self.after_bytes)
        exchange.close_connection = True


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset: before the answer, or in its body."""

    after_bytes: int | None = None

    def play(self, exchange: "Exchange") -> None:
        """Pass on the first bytes, if any."""
        if self.after_bytes is not None:
            exchange.pass_on(self.after_bytes)
        exchange.reset()


@dataclass(frozen=True)
class Stall(Fault):
    """The body stops; the connection stays open and silent until the client gives it up."""

    after_bytes: int

    def play(self, exchange: "Exchange") -> None:
        """Pass on the first bytes and wait."""
        exchange.pass_on(self.after_bytes)
        exchange.rfile.read(1)
        exchange.close_connection = True


@dataclass(frozen=True)
class Trickle(Fault):
    """The body goes on with a few bytes at a time: no read ever times out."""

    after_bytes: int
    step_bytes: int = 8
    every_s: float = 0.2

    def play(self, exchange: "Exchange") -> None:
        """Pass on the first bytes, then steps."""
        rest = exchange.pass_on(self.after_bytes)
        while step := rest.read(self.step_bytes):
            exchange.proxy.closed.wait(self.every_s)
            exchange.send(step)


@dataclass(frozen=True)
class Flip(Fault):
    """One bit of the byte at this offset of the body is wrong, where the body is that long."""

    at_byte: int

    def play(self, exchange: "Exchange") -> None:
        """Pass on all, changed."""
        rest = exchange.pass_on(self.at_byte)
        exchange.send(bytes(byte ^ 1 for byte in rest.read(1)))
        exchange.send_all(rest)


@dataclass(frozen=True)
class Shorten(Fault):
    """The body ends early, and Content-Length agrees: an answer that looks whole."""

    to_bytes: int

    def play(self, exchange: "Exchange") -> None:
        """Pass on the first bytes under their own length."""
        exchange.pass_on(self.to_bytes, length=self.to_bytes)


@dataclass(frozen=True)
class Answer(Fault):
    """The store is not asked; the proxy answers with an S3 error, or with a page of HTML."""

    status: int
    code: str = "SlowDown"
    page: str | None = None

    def play(self, exchange: "Exchange") -> None:
        """Answer."""
        error = f"<Error><Code>{self.code}</Code><Message>told to</Message></Error>"
        if self.page is None:
            exchange.answer(self.status, error.encode(), "application/xml")
        else:
            exchange.answer(self.status, self.page.encode(), "text/html")


class Faultless(Fault):
    """Nothing goes wrong."""

    def play(self, exchange: "Exchange") -> None:
        """Pass on all."""
        exchange.pass_on()


class Exchange(BaseHTTPRequestHandler):
    """One connection of a client: its requests in turn, each forwarded or broken."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, client: socket.socket, address: object, proxy: "FaultProxy") -> None:
        self.proxy = proxy
        super().__init__(client, address, proxy)  # type: ignore[arg-type]

    def serve(self) -> None:
        """One request: noted, then forwarded or broken."""
        fault = self.proxy.ordered(Request(self.command, self.path, self.headers.get("Range")))
        self.proxy.closed.wait(self.proxy.latency_s)
        self.body_bytes = int(self.headers.get("Content-Length", 0))
        self.upstream = HTTPConnection(*self.proxy.target, timeout=60)
        self.answered: HTTPResponse | None = None
        try:
            if fault is None and self.command == "GET":
                fault = self.proxy.by_length(self.response().length or 0)
            (fault or Faultless()).play(self)
        finally:
            self.upstream.close()

    do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = serve

    def response(self) -> HTTPResponse:
        """The server's answer to this request, which is forwarded on the first call."""
        if self.answered is None:
            self.upstream.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    self.upstream.putheader(name, value)
            self.upstream.endheaders()
            for block in self._body():
                self.upstream.send(block)
            self.answered = self.upstream.getresponse()
        return self.answered

    def pass_on(self, first_bytes: int | None = None, length: int | None = None) -> BinaryIO:
        """Send the head (with Content-Length `length`) and the body's first bytes, or all of it;
        returns the rest to read."""
        response = self.response()
        rest: BinaryIO = response
        if response.length is None:  # chunked: listings
            content = response.read()
            rest, length = io.BytesIO(content), len(content) if length is None else length
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() == "content-length" and length is not None:
                continue
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.send_all(rest, first_bytes)
        return rest

    def send_all(self, rest: BinaryIO, first_bytes: int | None = None) -> None:
        """Send what a reader gives, or its first bytes."""
        left_bytes = sys.maxsize if first_bytes is None else first_bytes
        while block := rest.read(min(_BLOCK_BYTES, left_bytes)):
            self.send(block)
            left_bytes -= len(block)

    def send(self, block: bytes) -> None:
        """Send a part of a body at the proxy's pace."""
        self.proxy.paced(len(block))
        self.wfile.write(block)

    def answer(self, status: int, body: bytes, content_type: str) -> None:
        """Answer in the server's place."""
        for _ in self._body():
            pass
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        """Reset the connection as soon as the request is left."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _body(self) -> Iterator[bytes]:
        """What the client sends after the request's head."""
        while self.body_bytes and (block := self.rfile.read(min(_BLOCK_BYTES, self.body_bytes))):
            self.proxy.paced(len(block))
            self.body_bytes -= len(block)
            yield block
