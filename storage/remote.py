"""A store over a service that does one request at a time: keys checked, requests retried, files
written atomically.

The rows gs, az and https implement `Bucket`. s3 has a store of its own, as boto3 retries the parts
of an upload and credentials are renewed between attempts.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from storage.downloads import BlockDownload, Body
from storage.errors import ChangedObject, MissingObject, ShortObject
from storage.files import file_errors, write_blocks
from storage.retry import retried
from storage.store import Download, ObjectInfo, in_key_order, whole_part
from storage.uris import checked_key

_Result = TypeVar("_Result")


class Bucket(Protocol):
    """Objects under one root. Keys are checked. Every call is one attempt and raises `StoreError`s:
    `MissingObject`, `ShortObject`, and `StoreUnavailable` where a retry may help."""

    uri: str

    def shown(self, key: str) -> str:
        """The URI of an object for messages."""
        ...

    def opened(self, key: str, offset_bytes: int, length_bytes: int | None) -> Body:
        """The answer to a request for an object from an offset on."""
        ...

    def write(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        """Store all of a file, atomically."""
        ...

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Write `new` where the object still is `old` (None: where there is none); whether it did.

        May raise `MissingObject` or `ChangedObject` where it did not."""
        ...

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        """Objects whose key starts with `prefix`, in any order."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is an object with exactly this key."""
        ...

    def md5(self, key: str) -> str | None:
        """The MD5 that the service keeps of an object, in hex; None where it keeps none."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        ...


class RemoteStore:
    """`Store` over a `Bucket`."""

    def __init__(self, bucket: Bucket, max_attempts: int) -> None:
        self.bucket, self.uri = bucket, bucket.uri
        self._max_attempts = max_attempts

    def get(self, key: str) -> bytes:
        """The whole object; an answer that breaks off is requested again."""
        return self._tried(key, lambda: b"".join(self._blocks(key)))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly `length_bytes` (>= 1) from `offset_bytes`."""
        assert offset_bytes >= 0 and length_bytes >= 1, (offset_bytes, length_bytes)
        download = self.download(key, offset_bytes, length_bytes)
        data = self._tried(key, lambda: b"".join(download))
        return whole_part(data, self.bucket.shown(key), offset_bytes, length_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, atomically."""

        def copied() -> None:
            blocks = self._blocks(key)
            first = next(blocks, b"")  # the file is not made where there is no object
            write_blocks(path, chain([first], blocks))

        self._tried(key, copied)

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        """One request for the object from an offset on, or for a part of it."""
        checked_key(key, self.uri)

        def opened() -> Body:
            return self.bucket.opened(key, offset_bytes, length_bytes)

        return BlockDownload(self.bucket.shown(key), offset_bytes, opened, length_bytes)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object."""
        self._tried(key, lambda: self.bucket.write(key, io.BytesIO(data), len(data)))

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Write `new` where the object still is `old` (None: there is none); whether it did."""
        with suppress(MissingObject, ChangedObject):
            return self._tried(key, lambda: self.bucket.swap(key, old, new))
        return False

    def put_file(self, key: str, path: Path) -> None:
        """Upload a local file."""

        def written() -> None:
            with file_errors(path), path.open("rb") as file:
                self.bucket.write(key, file, path.stat().st_size)

        self._tried(key, written)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in key order."""
        if "/" in prefix:
            checked_key(prefix.rpartition("/")[0], self.uri)
        found = retried(lambda: list(self.bucket.list(prefix)), self._max_attempts)
        return iter(in_key_order(found))

    def exists(self, key: str) -> bool:
        """Return whether there is an object with exactly this key."""
        return self._tried(key, lambda: self.bucket.exists(key))

    def md5(self, key: str) -> str | None:
        """The MD5 that the service keeps of an object, in hex; None where it keeps none."""
        return self._tried(key, lambda: self.bucket.md5(key))

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        self._tried(key, lambda: self.bucket.delete(key))

    def _blocks(self, key: str) -> Iterator[bytes]:
        """The whole object, which may be empty."""
        try:
            yield from self.download(key)
        except ShortObject:
            return

    def _tried(self, key: str, operation: Callable[[], _Result]) -> _Result:
        checked_key(key, self.uri)
        return retried(operation, self._max_attempts)
