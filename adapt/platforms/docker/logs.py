"""The lines of a container's log. One that is followed is opened again after an outage of its
engine; earlier lines are skipped, by the time that each line carries."""

import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from adapt.platforms.docker.errors import answers_of
from storage.errors import StoreUnavailable

OVERLAP_S = 10
"""Span of a log that is read twice, since stdout and stderr are noted side by side."""

_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)) (.*)", re.DOTALL)


class ContainerLog:
    """The log of a container, each line once."""

    def __init__(self, container: Any, where: str) -> None:
        self._container, self._where, self._lines = container, where, _Lines()

    def new_lines(self, is_last: bool) -> Iterator[str]:
        """The lines after those that were given before, until the container ends or the connection
        breaks off; docker-py ends a broken stream like a whole one."""
        frames = _frames(self._container, self._where, not is_last, self._lines.since())
        yield from self._lines.fresh(frames, is_last)


def _frames(container: Any, where: str, follow: bool, since: int | None) -> Iterator[bytes]:
    """A line each, or a piece of a long one; each begins with its time."""
    try:
        with answers_of(where):
            yield from container.logs(stream=True, follow=follow, timestamps=True, since=since)
    except struct.error as error:  # half a frame's head
        raise StoreUnavailable(f"{where}: the log broke off: {error}") from error


class _Lines:
    """The lines of a container, each once, however often its log is opened."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._of_engine: set[bytes] = set()  # its own messages, without a time
        self._newest_s = 0

    def since(self) -> int | None:
        """From which second on the log has to be read."""
        return self._newest_s - OVERLAP_S if self._newest_s else None

    def fresh(self, frames: Iterable[bytes], whole: bool) -> Iterator[str]:
        """The lines that were not given yet. The last line may lack its end where the log is
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
        elif line in self._of_engine:
            return
        else:
            self._of_engine.add(line)
        yield line.decode(errors="replace").rstrip("\r\n")

    def _note(self, stamp: str) -> None:
        self._seen[stamp] += 1
        second = _second(stamp)
        if second > self._newest_s:
            self._newest_s = second
            for old in [one for one in self._seen if _second(one) < second - OVERLAP_S]:
                del self._seen[old]


def _parted(frame: bytes) -> tuple[str, bytes]:
    """The time and the text; a message of the engine itself has no time."""
    match = _STAMPED.fullmatch(frame)
    return (match[1].decode(), match[2]) if match else ("", frame)


def _second(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp).timestamp())
