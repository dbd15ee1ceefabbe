"""The spool: a file of JSON lines that buffers entries for MLflow.

It is the queue between the job and the thread that delivers: it survives a kill and grows on disk.
Lines that a full disk refuses are buffered in memory until it has space again. Why no sqlite:
docs/tracking.md.
"""

import fcntl
import json
import logging
import os
import shutil
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from adapt.errors import JobError

log = logging.getLogger(__name__)

Entry = dict[str, Any]

_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 16 << 20
_TAIL_BYTES = 4 << 20


class Spool:
    """An append-only file of JSON lines, and beside it how far they are delivered (`*.delivered`).

    `append` and `tail` may be called from any thread, the others from the delivering one. A line
    that a kill cut short is skipped. The file is locked: `JobError` where another process, or
    another spool of this one, has it. The kernel releases the lock when a process ends, however.
    """

    def __init__(self, path: Path, run: str = "this run") -> None:
        """run: how messages name the run."""
        self.path, self._run = path, run
        self.files_dir = path.with_suffix(".files")
        self._mark_path = path.with_suffix(".delivered")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: int | None = self._locked_file()
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._buffered: deque[bytes] = deque()
        self._buffered_bytes = self._dropped = 0
        # The delivering thread reads buffered lines as if the file continued with them. Those that
        # it has stay in memory till it reads again, so that its offsets stay true.
        self._lent = self._lent_offset = 0
        size_bytes = self._size_bytes()
        if size_bytes and os.pread(self._file, 1, size_bytes - 1) != b"\n":
            self._buffer(b"\n")
        self.offset, self.run_id = self._read_mark(size_bytes)
        self.waiting = sum(1 for _ in self._in_file(self.offset, size_bytes))
        self._write_mark()

    def _locked_file(self) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise JobError(
                    f"{self._run} is being trained already, or its metrics are being sent, by "
                    f"{self._owner()}; its spool is {self.path}",
                    "wait for its end or stop it; --set name=NAME makes a separate run",
                ) from None
            except OSError as error:  # a file system without locks
                log.debug("%s cannot be locked: %s", self.path, error)
            if os.fstat(file).st_nlink:
                return file
            os.close(file)  # delivered and removed between the two calls

    def _owner(self) -> str:
        try:
            mark = json.loads(self._mark_path.read_text())
            return f"process {int(mark['pid'])} on {mark['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _read_mark(self, size_bytes: int) -> tuple[int, str | None]:
        try:
            mark = json.loads(self._mark_path.read_text())
            offset, run_id = int(mark["offset"]), mark["run_id"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, None
        return (offset if offset <= size_bytes else 0), run_id

    def _size_bytes(self) -> int:
        assert self._file is not None, "not after `close`"
        return os.fstat(self._file).st_size

    def append(self, entry: Entry) -> None:
        """Write one line; where the disk refuses, buffer it in memory, with one warning."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            self._buffer(line)
            self.waiting += 1
            self._flush()
            self._drop_oldest()

    def _buffer(self, line: bytes) -> None:
        self._buffered.append(line)
        self._buffered_bytes += len(line)

    def _flush(self) -> None:
        """Write the buffered lines, in order, as far as the disk has space for whole lines."""
        while self._buffered and not self._lent and self._file is not None:
            size_bytes = self._size_bytes()
            try:
                if os.write(self._file, self._buffered[0]) != len(self._buffered[0]):
                    os.ftruncate(self._file, size_bytes)
                    raise OSError("no space for a whole line")
            except OSError as error:
                self._warn(f"{self.path} cannot be written ({error}); lines are buffered in memory")
                return
            self._buffered_bytes -= len(self._buffered.popleft())
        if not self._buffered:
            self._report_dropped()

    def _drop_oldest(self) -> None:
        """Drop buffered lines that are too many, but none that the delivering thread has."""
        while self._buffered_bytes > _BUFFER_BYTES and self._lent + 1 < len(self._buffered):
            oldest = self._lent or int(self._buffered[0] == b"\n")
            self._buffered_bytes -= len(self._buffered[oldest])
            del self._buffered[oldest]
            self.waiting -= 1
            self._dropped += 1

    def _report_dropped(self, more: int = 0) -> None:
        """One warning for all that was lost since the disk became full."""
        if lost := self._dropped + more:
            log.warning("%s was not writable: %d entries for MLflow are lost", self.path, lost)
        self._dropped = 0

    def keep(self, artifact_path: str, write: Callable[[Path], object]) -> Path | None:
        """A file with the artifact's name in a folder of its own; None where the disk is full."""
        path = self.files_dir / uuid4().hex / PurePosixPath(artifact_path).name
        try:
            path.parent.mkdir(parents=True)
            write(path)
        except OSError as error:
            self._warn(f"{self.files_dir} cannot be written ({error}); pictures are lost")
            return None
        return path

    def _warn(self, message: str) -> None:
        kind = message.rpartition(";")[2]
        if kind not in self._warned:
            log.warning("%s", message)
        self._warned.add(kind)

    def read(self, limit_bytes: int = _CHUNK_BYTES) -> Iterator[tuple[Entry, int]]:
        """Undelivered entries, each with the offset behind it, in order, until `limit_bytes`."""
        with self._lock:
            if self._file is None:
                return
            self._lent = 0
            self._flush()
            first, size_bytes = self.offset, self._size_bytes()
            room_bytes = first + limit_bytes - size_bytes
            lent = self._lend(room_bytes, size_bytes)
        for entry, offset in self._in_file(first, size_bytes):
            yield entry, offset
            if offset - first >= limit_bytes:
                return
        offset = size_bytes
        for line in lent:
            offset += len(line)
            if (buffered_entry := parsed(line)) is not None:
                yield buffered_entry, offset

    def _lend(self, room_bytes: int, offset: int) -> list[bytes]:
        """The first buffered lines, until `room_bytes`; they begin at `offset`."""
        lent: list[bytes] = []
        for line in self._buffered:
            if room_bytes <= 0:
                break
            lent.append(line)
            room_bytes -= len(line)
        self._lent, self._lent_offset = len(lent), offset
        return lent

    def _in_file(self, offset: int, end: int) -> Iterator[tuple[Entry, int]]:
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                if offset > end:
                    return
                if (entry := parsed(line)) is not None:
                    yield entry, offset

    def tail(self, limit_bytes: int = _TAIL_BYTES) -> list[bytes]:
        """The undelivered lines, at most the last `limit_bytes` of them, in order."""
        with self._lock:
            end, buffered = self._size_bytes(), list(self._buffered)
            first = max(self.offset, end + self._buffered_bytes - limit_bytes)
            lines = self._lines_between(first, end) + buffered
        excess_bytes = sum(map(len, lines)) - limit_bytes
        while excess_bytes > 0:
            excess_bytes -= len(lines.pop(0))
        return lines

    def _lines_between(self, first: int, end: int) -> list[bytes]:
        """The file's lines that begin there."""
        if first >= end or self._file is None:
            return []
        before = min(first, 1)  # shows whether a line begins at `first`
        lines = os.pread(self._file, end - first + before, first - before).split(b"\n")
        return [line + b"\n" for line in lines[before:] if line]

    def mark(self, offset: int, entries: int) -> None:
        """Remember that everything before `offset`, `entries` more than so far, is delivered."""
        with self._lock:
            self.waiting = max(0, self.waiting - entries)
            while self._lent and self._lent_offset + len(self._buffered[0]) <= offset:
                line = self._buffered.popleft()
                self._buffered_bytes -= len(line)
                self._lent_offset += len(line)
                self._lent -= 1
            if self._file is None:  # another spool may have the file by now
                return
            self.offset = min(offset, self._size_bytes())
        self._write_mark()

    def _write_mark(self) -> None:
        mark = {"offset": self.offset, "run_id": self.run_id}
        new = self._mark_path.with_suffix(".new")
        try:
            new.write_text(json.dumps(mark | {"pid": os.getpid(), "host": socket.gethostname()}))
            new.replace(self._mark_path)
        except OSError as error:
            self._warn(f"{new} cannot be written ({error}); entries may be sent again")

    def close(self, *, remove: bool) -> None:
        """Close the file; with `remove`, also delete it and what stands beside it."""
        with self._lock:
            self._lent = 0
            self._flush()
            self._report_dropped(sum(parsed(line) is not None for line in self._buffered))
            if remove:  # before the lock opens
                self.path.unlink(missing_ok=True)
                self._mark_path.unlink(missing_ok=True)
                shutil.rmtree(self.files_dir, ignore_errors=True)
            if self._file is not None:
                os.close(self._file)
            self._file = None


def parsed(line: bytes) -> Entry | None:
    """The entry of one line; None where the line was cut short."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
