"""HTTP/1.1 by uvicorn, with an end to clients that are slow on purpose: to send a header, to send a
body that is refused already, to read an answer. Bodies that are wanted have their limit in
`adapt.serve.service`.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


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
        super().connection_made(transport)
        self._wait("head", self.head_s)

    def data_received(self, data: bytes) -> None:
        """A part of a header or of a body."""
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
        self._timer = None if what is None else self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()

    def _drop_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
