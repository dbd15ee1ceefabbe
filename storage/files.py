"""Local files: atomic writes that survive a power cut, and the system's errors with their fix."""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from storage.errors import MissingObject, StoreError
from storage.uris import TEMPORARY_PREFIX

_FULL = (errno.ENOSPC, errno.EDQUOT)


_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def file_errors(name: str | Path) -> Iterator[None]:
    """Turns `OSError` inside into `StoreError` with `name`, the file and the fix."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(f"{name}: there is no such file ({error.filename or name})") from error
    except OSError as error:
        raise _explained(name, error) from error


def _explained(name: str | Path, error: OSError) -> StoreError:
    where = error.filename or name
    if error.errno in _FULL:
        return StoreError(f"{name}: the disk is full while writing {where}", fix="free space there")
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"{name}: no permission for {where} ({error.strerror}, uid {os.getuid()})",
            fix="check its owner and mode",
        )
    if error.errno == errno.EISDIR:
        return StoreError(f"{name}: expected a file, got a folder of this name ({where})")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        parts = [*reversed(Path(where).parents), Path(where)]
        file = next((part for part in parts if part.is_file()), where)
        return StoreError(f"{name}: expected folders as parts of the path, got a file ({file})")
    return StoreError(f"{name}: {error.strerror or error} ({where})")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it appears at `path`, whole and synced, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}-{path.name[:200]}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_blocks(path: Path, blocks: Iterable[bytes]) -> None:
    """Write blocks to `path`, atomically. An error of the file is a `StoreError` that names it; one
    of the blocks, which SDKs derive from `OSError` too, comes out as it is."""
    try:
        with file_errors(path), atomic_file(path) as file:
            for block in _marked(blocks):
                file.write(block)
        return
    except _OfBlocks as mark:
        error = mark.error
    raise error


class _OfBlocks(Exception):
    """An error of what is to be written, on its way past the errors of the file."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _marked(blocks: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from blocks
    except Exception as error:
        raise _OfBlocks(error) from error


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
