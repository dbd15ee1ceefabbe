"""HTTP/1.1 by uvicorn, with an end to clients that are slow on purpose: to send a header, to send a
body that is refused already, to read an answer. Bodies that are wanted have their limit in
`adapt.serve.service`.

A socket that is closed while its client still sends makes the client's system reset the connection
and throw the answer away. So an answer that comes before the end of a body closes the writing side
alone, and what the client sends is read and dropped for a moment (RFC 9112, 9.6).
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class HalfClosing:
    """A transport whose `close`, where the client `still_sends`, ends the writing side and reads on
    for `seconds`, or until the client ends its own side; a second one ends both."""

    def __init__(
        self, transport: asyncio.Transport, still_sends: Callable[[], bool], seconds: float
    ) -> None:
        self._transport, self._still_sends, self._seconds = transport, still_sends, seconds
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """True from the first `close` on."""
        return self.ended or self._transport.is_closing()

    def close(self) -> None:
        """End the connection, maybe its writing side first."""
        if self.is_closing() or not self._still_sends():
            self._transport.close()
            return
        self.ended = True
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(self._seconds, self._transport.close)


class LimitedProtocol(H11Protocol):
    """Closes a connection that waits longer for its client than this."""

    head_s, rest_s, unread_s = 10.0, 10.0, 60.0
    """Seconds for a request's header, for the rest of a refused body, for reading an answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waits_for: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its header is awaited."""
        self._closing = HalfClosing(transport, self._client_sends, self.rest_s)
        super().connection_made(cast(asyncio.Transport, self._closing))
        self._wait("head", self.head_s)

    def data_received(self, data: bytes) -> None:
        """A part of a header or of a body."""
        if not self._closing.ended:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """The answer is in the buffers of the connection."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.unread_s, self._drop_unread)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._wait(None, 0)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: no moment is left for one that is answered and still sends."""
        if self._closing.ended:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of all other refusals; behind an answer that is sent
        already, end the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        problem = f"request: expected HTTP/1.1, got other bytes ({msg})"
        body = json.dumps({"error": problem, "fix": "speak HTTP/1.1, without TLS"}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        answer = h11.Response(
            status_code=400, headers=[*headers, ("connection", "close")], reason=b"Bad Request"
        )
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that is not known is ignored (RFC 9110, 7.8), without advice to install
        what this server does not want."""

    def _client_sends(self) -> bool:
        """Within a body, or something that is no HTTP."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _watch(self) -> None:
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._wait("head", self.head_s)
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self._wait("rest", self.rest_s)
        else:
            self._wait(None, 0)

    def _wait(self, what: str | None, seconds: float) -> None:
        """Start a timer for something else than before, or stop it; the same one continues."""
        if what == self._waits_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits_for = what
        self._timer = None if what is None else self.loop.call_later(seconds, self._end_wait)

    def _end_wait(self) -> None:
        """An answer that is sent may still be read; without one there is nothing to wait for."""
        if self._waits_for == "rest":
            self.timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self.transport.abort()

    def _drop_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
