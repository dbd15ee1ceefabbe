"""The lines of a container's log. One that is followed is opened again after an outage of its
engine; what came before is left out, by the time that each line carries."""

import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from adapt.platforms import platform
from adapt.platforms.docker.errors import answers_of
from adapt.platforms.platform import ENDED, JobStatus, patiently
from storage.errors import StoreUnavailable

OVERLAP_S = 10
"""How much of a log is read twice, since stdout and stderr are noted side by side."""

_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)) (.*)", re.DOTALL)


def written(container: Any, where: str) -> Iterator[str]:
    """What a container has written so far."""
    yield from _Lines().fresh(_frames(container, where, False, None), True)


def followed(container: Any, where: str, look: Callable[[], JobStatus]) -> Iterator[str]:
    """What a container writes until `look` says that it has ended, over outages of `PATIENCE_S`.

    Raises `StoreUnavailable` after that, and what else `look` raises.
    """
    lines = _Lines()
    while True:
        ended, before = patiently(look).state in ENDED, lines.count
        try:
            yield from lines.fresh(_frames(container, where, True, lines.since()), ended)
        except StoreUnavailable:
            time.sleep(platform.AGAIN_S)
            continue
        if lines.count == before:  # docker-py ends a broken stream like a whole one
            if ended:
                return
            time.sleep(platform.AGAIN_S)


def _frames(container: Any, where: str, follow: bool, since: int | None) -> Iterator[bytes]:
    """A line each, or a piece of a long one; each begins with its time."""
    try:
        with answers_of(where):
            yield from container.logs(stream=True, follow=follow, timestamps=True, since=since)
    except struct.error as error:  # half a frame's head
        raise StoreUnavailable(f"{where}: the log broke off: {error}") from error


class _Lines:
    """The container's lines, each once, however often its log is opened; `count` up to now."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: Counter[str] = Counter()
        self._newest_s = 0

    def since(self) -> int | None:
        """From which second on the log has to be read."""
        return self._newest_s - OVERLAP_S if self._newest_s else None

    def fresh(self, frames: Iterable[bytes], whole: bool) -> Iterator[str]:
        """The lines that were not seen yet. The last line may lack its end where the log is
        `whole`, and is left for the next time where it may have broken off."""
        again, line, first = self._seen.copy(), b"", ""
        for frame in frames:
            stamp, piece = _parted(frame)
            first = first if line else stamp
            line += piece
            if line.endswith(b"\n"):
                yield from self._new(first, line, again)
                line = b""
        if line and whole:
            yield from self._new(first, line, again)

    def _new(self, stamp: str, line: bytes, again: Counter[str]) -> Iterator[str]:
        if again[stamp]:
            again[stamp] -= 1
            return
        if stamp:
            self._note(stamp)
        yield line.decode(errors="replace").rstrip("\r\n")

    def _note(self, stamp: str) -> None:
        self.count += 1
        self._seen[stamp] += 1
        second = _second(stamp)
        if second > self._newest_s:
            self._newest_s = second
            for old in [one for one in self._seen if _second(one) < second - OVERLAP_S]:
                del self._seen[old]


def _parted(frame: bytes) -> tuple[str, bytes]:
    """The time and the text; no time where the engine itself speaks."""
    match = _STAMPED.fullmatch(frame)
    return (match[1].decode(), match[2]) if match else ("", frame)


def _second(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp())
