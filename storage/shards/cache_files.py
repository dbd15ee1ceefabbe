"""The files in a cache's folder: whole shards, files that claim room for one, locks."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from storage.uris import TEMPORARY_PREFIX

PART = ".part"
LOCK = ".lock"


def shards_in(folder: Path) -> Iterator[Path]:
    """Whole shards in and under a folder."""
    for path in sorted(folder.rglob("*")):
        unfinished = path.name.startswith(TEMPORARY_PREFIX) or path.name.endswith((PART, LOCK))
        if not unfinished and path.is_file():
            yield path


def bytes_in(folder: str | Path) -> int:
    """Bytes of all files in and under a folder: shards, and the room claimed for some."""
    with os.scandir(folder) as entries:
        return sum(
            bytes_in(entry.path) if entry.is_dir() else size_of(Path(entry.path))
            for entry in entries
        )


def remove_leftovers(folder: Path) -> int:
    """Remove unfinished downloads of killed processes, whose shards' locks are free; returns their
    bytes."""
    freed_bytes = 0
    for part in list(folder.rglob(f"*{PART}")):
        with lock_file(part.with_name(part.name.removesuffix(PART))).open("ab") as file:
            if taken(file):
                freed_bytes += size_of(part)
                part.unlink(missing_ok=True)
    return freed_bytes


def lock_file(path: Path) -> Path:
    """The lock file of a shard."""
    return path.with_name(path.name + LOCK)


def taken(file: BinaryIO) -> bool:
    """Take an exclusive lock on the file if it is free; the kernel releases it when its owner
    dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def size_of(path: Path) -> int:
    """Size in bytes; 0 where another process has just renamed the file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps an exclusive lock on the file `path`; the kernel releases it when its owner dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
