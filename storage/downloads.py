"""The bytes of one answer as they arrive, for every store whose answers can be read in blocks.

`read1` of a large block costs the least time that urllib3 allows (docs/stores.md), and returns the
bytes that have arrived without waiting for a full block: a stalled download is noticed immediately.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, Protocol

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from storage.errors import ShortObject, StoreUnavailable

BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """An open answer or file."""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes as soon as some have arrived; none at the end."""
        ...

    def close(self) -> None:
        """Drop the rest, and its connection."""
        ...


class Body(NamedTuple):
    """An open answer at the first byte that was requested.

    `stop`, called from another thread, makes a waiting `read1` return. `length_bytes` is the
    announced length, where `file` does not notice by itself that bytes are missing.
    """

    file: Readable
    stop: Callable[[], None]
    length_bytes: int | None = None


class BlockDownload:
    """`Download` of what `opened` opens; it is called when the iteration begins."""

    def __init__(
        self,
        uri: str,
        offset_bytes: int,
        opened: Callable[[], Body],
        length_bytes: int | None = None,
    ) -> None:
        assert offset_bytes >= 0, offset_bytes
        self.uri, self.offset_bytes, self.length_bytes = uri, offset_bytes, length_bytes
        self._opened = opened
        self._body: Body | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[bytes]:
        """Blocks of at most `BLOCK_BYTES`."""
        self._check()
        body = self._opened()
        try:
            with self._lock:
                self._body = body
            yield from self._blocks(body)
        finally:
            with self._lock:
                self._body = None
            body.file.close()

    def cancel(self) -> None:
        """Make the iteration end with `StoreUnavailable`; where it waits for bytes, immediately."""
        with self._lock:
            self._cancelled = True
            if self._body is not None:
                self._body.stop()

    def _blocks(self, body: Body) -> Iterator[bytes]:
        self._check()
        arrived_bytes = 0
        while block := self._read(body.file, arrived_bytes):
            if self.length_bytes is not None:
                block = block[: self.length_bytes - arrived_bytes]
            arrived_bytes += len(block)
            yield block
            self._check()
            if arrived_bytes == self.length_bytes:
                return
        if body.length_bytes is not None and arrived_bytes < body.length_bytes:
            raise self._broken(arrived_bytes, f"{body.length_bytes} bytes were announced")
        if arrived_bytes == 0:
            raise ShortObject(
                f"{self.uri}: the object is shorter than requested: expected bytes from "
                f"{self.offset_bytes} on, got none",
                fix="pack or upload it again",
            )

    def _read(self, file: Readable, arrived_bytes: int) -> bytes:
        try:
            block = file.read1(BLOCK_BYTES)
        except (HTTPError, OSError, EOFError) as error:
            self._check()
            raise self._broken(arrived_bytes, f"{type(error).__name__}: {error}") from error
        self._check()  # a stopped TLS connection returns bytes that are still encrypted
        return block

    def _broken(self, arrived_bytes: int, reason: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.uri}: the answer broke off at byte {self.offset_bytes + arrived_bytes} "
            f"({reason})",
            fix="check the network and the store's log",
        )

    def _check(self) -> None:
        if self._cancelled:
            raise StoreUnavailable(f"{self.uri}: the download was cancelled")


def unstoppable() -> None:
    """`stop` of bodies whose reads end by themselves."""


def stopper(answer: BaseHTTPResponse) -> Callable[[], None]:
    """`stop` of an answer of urllib3."""

    def stop() -> None:
        with suppress(OSError, RuntimeError, ValueError):  # it ended just now
            answer.shutdown()

    return stop


def blocks_of(file: Readable) -> Iterator[bytes]:
    """The rest."""
    while block := file.read1(BLOCK_BYTES):
        yield block


def skip(file: Readable, num_bytes: int) -> None:
    """Read past `num_bytes`, or to the end, in memory of one block."""
    while num_bytes > 0 and (block := file.read1(min(BLOCK_BYTES, num_bytes))):
        num_bytes -= len(block)
