"""`file://` and plain paths: objects are files under a folder, replaced atomically.

A write goes to a temporary name in the same folder, is synced, then renamed, and the folder is
synced: after a power cut there are the old bytes or the new ones. Names are taken literally,
without percent-decoding.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from storage.downloads import BlockDownload, Body, unstoppable
from storage.errors import MissingObject, StoreError
from storage.files import atomic_file, file_errors, write_blocks
from storage.store import Download, ObjectInfo, in_key_order, whole_part
from storage.uris import TEMPORARY_PREFIX, checked_key, join, split_uri

_COPY_BYTES = 1 << 20


class LocalStore:
    """`Store` over a folder, which is created by the first write."""

    def __init__(self, uri: str) -> None:
        _, path = split_uri(uri)
        if uri != path and not path.startswith("/"):
            raise StoreError(
                f"{uri}: expected file:///absolute/path or a plain path, got a relative "
                "one after file://",
                fix="write three slashes after file:",
            )
        try:
            self.root = Path(path).expanduser().absolute()
        except RuntimeError as error:  # ~NAME
            raise StoreError(
                f"{uri}: expected a user after ~, got an unknown one", fix="write the whole path"
            ) from error
        if "\0" in path:
            raise StoreError(f"{uri!r}: expected a path, got one with a NUL", fix="remove it")
        self.uri = f"file://{self.root}"

    def path(self, key: str) -> Path:
        """The file that holds `key`, whether it exists or not."""
        return self.root / checked_key(key, self.uri)

    def get(self, key: str) -> bytes:
        """The whole file."""
        path = self._existing(key)
        with file_errors(join(self.uri, key)):
            return path.read_bytes()

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly `length_bytes` (>= 1) from `offset_bytes`."""
        assert offset_bytes >= 0 and length_bytes >= 1, (offset_bytes, length_bytes)
        path = self._existing(key)
        with file_errors(join(self.uri, key)), path.open("rb") as file:
            file.seek(offset_bytes)
            data = file.read(length_bytes)
        return whole_part(data, join(self.uri, key), offset_bytes, length_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Copy to `path`, atomically."""
        existing = self._existing(key)
        with file_errors(join(self.uri, key)), existing.open("rb") as source:
            write_blocks(path, iter(partial(source.read, _COPY_BYTES), b""))

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        """The file's bytes from an offset on."""
        self.path(key)

        def opened() -> Body:
            path = self._existing(key)
            with file_errors(join(self.uri, key)):
                file = path.open("rb")
                file.seek(offset_bytes)
            return Body(file, unstoppable)

        return BlockDownload(join(self.uri, key), offset_bytes, opened, length_bytes)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole file atomically."""
        with file_errors(join(self.uri, key)), atomic_file(self.path(key)) as file:
            file.write(data)

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Write `new` where the file still is `old` (None: where there is none); whether it did."""
        path = self.path(key)
        with file_errors(join(self.uri, key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                same = (path.read_bytes() if path.exists() else None) == old
                if same:
                    self.put(key, new)
        return same

    def put_file(self, key: str, path: Path) -> None:
        """Copy `path` into the store, atomically."""
        target = self.path(key)
        with (
            file_errors(join(self.uri, key)),
            path.open("rb") as source,
            atomic_file(target) as copy,
        ):
            shutil.copyfileobj(source, copy, _COPY_BYTES)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Files whose key starts with `prefix`, in key order; a missing folder is empty."""
        folder = prefix.rpartition("/")[0]
        start = self.path(folder) if folder else self.root
        with file_errors(join(self.uri, prefix)):
            found = in_key_order(self._walk(start))
        return (info for info in found if info.key.startswith(prefix))

    def exists(self, key: str) -> bool:
        """Return whether there is a file with exactly this key."""
        path = self.path(key)
        with file_errors(join(self.uri, key)):
            return path.is_file()

    def md5(self, key: str) -> None:
        """None: what is read is what is stored."""

    def delete(self, key: str) -> None:
        """Remove the file; nothing happens where there is none."""
        path = self.path(key)
        if self.exists(key):
            with file_errors(join(self.uri, key)):
                path.unlink(missing_ok=True)

    def _existing(self, key: str) -> Path:
        if not self.exists(key):
            raise MissingObject(f"{join(self.uri, key)}: there is no such file")
        return self.path(key)

    def _walk(self, start: Path) -> Iterator[ObjectInfo]:
        if not start.is_dir():
            return
        for folder, _, names in os.walk(start, followlinks=True, onerror=_raise):
            for name in names:
                path = Path(folder, name)
                if not name.startswith(TEMPORARY_PREFIX) and path.is_file():
                    yield ObjectInfo(path.relative_to(self.root).as_posix(), path.stat().st_size)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, for one writer at a time where its file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # network file systems may refuse
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _raise(error: OSError) -> None:
    raise error
