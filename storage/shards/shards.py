"""Shards: plain USTAR archives (WebDataset's format) whose members are read by offset, without a
tar reader.

The same members in the same order give the same bytes on every machine: times, owners and modes are
fixed.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self

import xxhash

from storage.errors import StoreError
from storage.files import file_errors
from storage.uris import checked_key

_HEADER_BYTES = 512
_READ_BYTES = 1 << 20
_MODE = 0o644


class ShardWriter:
    """Writes one shard to a local file; as a context manager, removes it on an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: set[str] = set()
        with file_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._tar = tarfile.open(  # noqa: SIM115, open as long as the writer
                path, "w", format=tarfile.USTAR_FORMAT, encoding="utf-8"
            )

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first data byte, a multiple of 512."""
        checked_key(name, str(self.path))
        if name in self._names:
            raise StoreError(f"{self.path}: two members are named {name!r}")
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(data), _MODE, 0
        offset_bytes = self._tar.offset + _HEADER_BYTES
        with file_errors(self.path):
            try:
                self._tar.addfile(member, io.BytesIO(data))
            except ValueError as error:
                raise StoreError(
                    f"{self.path}: {name!r} is no name for a tar member: {error}"
                ) from error
        self._names.add(name)
        return offset_bytes

    def close(self) -> None:
        """Write the archive's end. The shard is complete afterwards."""
        with file_errors(self.path):
            self._tar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        assert self._tar.fileobj is not None
        self._tar.fileobj.close()
        self.path.unlink(missing_ok=True)


class OpenShard:
    """A shard's bytes, open for reading by many threads; closed with its last reference."""

    def __init__(self, descriptor: int, released: Callable[[], None] = lambda: None) -> None:
        self._descriptor, self._released = descriptor, released

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly these bytes. Raises `StoreError` where the shard ends before."""
        return read_member(self._descriptor, offset_bytes, length_bytes)

    def __del__(self) -> None:
        os.close(self._descriptor)
        self._released()


def read_member(file: BinaryIO | int, offset_bytes: int, length_bytes: int) -> bytes:
    """`length_bytes` at `offset_bytes` of an open shard (a file or its descriptor).

    Many threads may read at once. Raises `StoreError` where the shard ends before.
    """
    descriptor = file if isinstance(file, int) else file.fileno()
    data = os.pread(descriptor, length_bytes, offset_bytes)
    while len(data) < length_bytes:
        more = os.pread(descriptor, length_bytes - len(data), offset_bytes + len(data))
        if not more:
            raise StoreError(
                f"{_name(descriptor)}: truncated shard: expected {length_bytes} bytes at "
                f"{offset_bytes}, got {len(data)}"
            )
        data += more
    return data


def _name(descriptor: int) -> str:
    """The path of a descriptor, where the system reports it."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return f"file descriptor {descriptor}"


def checksums(path: Path) -> tuple[str, str]:
    """(sha256, xxh3-64) of a file's bytes as hex digits, in one pass."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_64()
    with file_errors(path), path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            sha256.update(block)
            xxh3.update(block)
    return sha256.hexdigest(), xxh3.hexdigest()


def xxh3_of(path: Path) -> str:
    """xxh3-64 of a file's bytes as hex digits: fast, but no protection against forgery."""
    xxh3 = xxhash.xxh3_64()
    with file_errors(path), path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            xxh3.update(block)
    return xxh3.hexdigest()
