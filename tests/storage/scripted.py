"""A store that does exactly what each request is scripted to do, and scripts for it."""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator

from storage.errors import StoreError, StoreUnavailable

DATA = random.Random(5).randbytes(400_000)
KEY = "train/shard-00003.tar"
URI = f"fake://bucket/{KEY}"
LONG_S = 30.0
"""Longer than any test may take: waits end sooner, by an event."""


class ScriptedDownload:
    """One request; its script says which bytes come and how it ends."""

    def __init__(self, script: "Script", offset_bytes: int, length_bytes: int | None) -> None:
        self.script, self.offset_bytes, self.length_bytes = script, offset_bytes, length_bytes
        self.cancelled = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield from self.script(self)

    def cancel(self) -> None:
        """As the protocol says."""
        self.cancelled.set()

    def until_cancelled(self) -> None:
        """Silence, then what a cancelled request raises."""
        assert self.cancelled.wait(LONG_S), "nobody has given this request up"
        raise StoreUnavailable(f"{URI}: cancelled")


Script = Callable[[ScriptedDownload], Iterator[bytes]]


class ScriptedStore:
    """Downloads by the next of `scripts`; the last is repeated."""

    uri = "fake://bucket"

    def __init__(self, *scripts: Script) -> None:
        self.scripts = deque(scripts)
        self.downloads: list[ScriptedDownload] = []

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> ScriptedDownload:
        """As the protocol says."""
        assert key == KEY
        script = self.scripts.popleft() if len(self.scripts) > 1 else self.scripts[0]
        self.downloads.append(ScriptedDownload(script, offset_bytes, length_bytes))
        return self.downloads[-1]

    def md5(self, key: str) -> None:
        """As the protocol says: it keeps none."""

    @property
    def offsets(self) -> list[int]:
        """Where each request began."""
        return [download.offset_bytes for download in self.downloads]


def whole(download: ScriptedDownload) -> Iterator[bytes]:
    """All that is asked for, in two blocks."""
    middle = (download.offset_bytes + len(DATA)) // 2
    yield DATA[download.offset_bytes : middle]
    yield DATA[middle:]


def some(num_bytes: int, data: bytes = DATA) -> Script:
    """The first bytes, then an end in order."""

    def script(download: ScriptedDownload) -> Iterator[bytes]:
        yield data[download.offset_bytes :][:num_bytes]

    return script


def cut(num_bytes: int) -> Script:
    """The first bytes, then the answer breaks off."""

    def script(download: ScriptedDownload) -> Iterator[bytes]:
        yield from some(num_bytes)(download)
        raise StoreUnavailable(f"{URI}: broke off")

    return script


def stalled(num_bytes: int) -> Script:
    """The first bytes, then silence."""

    def script(download: ScriptedDownload) -> Iterator[bytes]:
        yield from some(num_bytes)(download)
        download.until_cancelled()

    return script


def trickle(download: ScriptedDownload) -> Iterator[bytes]:
    """A byte at a time: never silent for long."""
    for place in range(download.offset_bytes, len(DATA)):
        if download.cancelled.wait(0.02):
            raise StoreUnavailable(f"{URI}: cancelled")
        yield DATA[place : place + 1]


def failing(error: StoreError) -> Script:
    """No bytes."""

    def script(download: ScriptedDownload) -> Iterator[bytes]:
        raise error
        yield b""

    return script


def after(event: threading.Event, then: Script) -> Script:
    """Nothing until something else has happened."""

    def script(download: ScriptedDownload) -> Iterator[bytes]:
        assert event.wait(LONG_S)
        yield from then(download)

    return script


def signal(event: threading.Event, then: Script) -> Script:
    """Makes it happen that another request waits for."""

    def script(download: ScriptedDownload) -> Iterator[bytes]:
        event.set()
        yield from then(download)

    return script
