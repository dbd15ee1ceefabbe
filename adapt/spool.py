"""The spool: a file of JSON lines that holds what MLflow has not received yet.

It is the queue between the job and the thread that delivers: it survives a kill, grows on disk and
not in memory, and nothing is dropped to make room.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

log = logging.getLogger(__name__)

Entry = dict[str, Any]

_CHUNK_BYTES = 1 << 20


class Spool:
    """An append-only file of JSON lines, and beside it how far they are delivered (`*.delivered`).

    `append` may be called from any thread, the rest belongs to the delivering one. A line that a
    kill or a full disk cut short is skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files_dir = path.with_suffix(".files")
        self._mark_path = path.with_suffix(".delivered")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size_bytes = os.fstat(self._file).st_size
        self._torn = size_bytes > 0 and os.pread(self._file, 1, size_bytes - 1) != b"\n"
        self._lock = threading.Lock()
        self._warned = False
        self.offset, self.run_id = self._read_mark(size_bytes)
        self.waiting = sum(1 for _ in self.read(limit_bytes=size_bytes))

    def _read_mark(self, size_bytes: int) -> tuple[int, str | None]:
        try:
            mark = json.loads(self._mark_path.read_text())
            offset, run_id = int(mark["offset"]), mark["run_id"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, None
        return (offset if offset <= size_bytes else 0), run_id

    def append(self, entry: Entry) -> None:
        """Write one line; where the disk refuses, the entry is lost, with one warning."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            try:
                line = b"\n" + line if self._torn else line
                self._torn = os.write(self._file, line) != len(line)
                self.waiting += not self._torn
            except OSError as error:
                self._warn(error)

    def keep(self, artifact_path: str, write: Callable[[Path], object]) -> Path | None:
        """A file with the artifact's name in a folder of its own; None where the disk is full."""
        path = self.files_dir / str(time.time_ns()) / PurePosixPath(artifact_path).name
        try:
            path.parent.mkdir(parents=True)
            write(path)
        except OSError as error:
            self._warn(error)
            return None
        return path

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("%s cannot be written (%s); figures for MLflow are lost", self.path, error)
        self._warned = True

    def read(self, limit_bytes: int = _CHUNK_BYTES) -> Iterator[tuple[Entry, int]]:
        """Undelivered entries, each with the offset behind it, in order, until `limit_bytes`."""
        offset = first = self.offset
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                entry = parsed(line)
                if entry is not None:
                    yield entry, offset
                if offset - first >= limit_bytes:
                    return

    def mark(self, offset: int, entries: int) -> None:
        """Remember that everything before `offset`, `entries` more than so far, is delivered."""
        self.offset = offset
        with self._lock:
            self.waiting = max(0, self.waiting - entries)
        new = self._mark_path.with_suffix(".new")
        try:
            new.write_text(json.dumps({"offset": offset, "run_id": self.run_id}))
            new.replace(self._mark_path)
        except OSError as error:
            self._warn(error)

    def close(self, *, remove: bool) -> None:
        """Close the file; with `remove`, also delete it and what stands beside it."""
        with self._lock:
            os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)
            self._mark_path.unlink(missing_ok=True)
            shutil.rmtree(self.files_dir, ignore_errors=True)


def parsed(line: bytes) -> Entry | None:
    """The entry of one line; None where the line was cut short."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
