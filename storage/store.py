"""The `Store` protocol: bytes behind keys.

Every key is relative to the store's root URI
(`s3://bucket/prefix`), uses `/`, and never climbs out of it. Writes are atomic: a reader sees the
old bytes or the new ones, never a part.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from storage.errors import ShortObject


class ObjectInfo(NamedTuple):
    """One stored object: its key relative to the store's root, and its size."""

    key: str
    size_bytes: int


class Download(Protocol):
    """The bytes of one object from an offset on, as one request returns them."""

    def __iter__(self) -> Iterator[bytes]:
        """Blocks of any size, as they arrive.

        Raises `StoreUnavailable` where the answer breaks off, `ShortObject` where the object ends
        at or before the offset, `MissingObject`, `StoreError`.
        """
        ...

    def cancel(self) -> None:
        """End it from another thread, before or during the iteration, which raises
        `StoreUnavailable` then."""
        ...


class Store(Protocol):
    """Objects under one root URI. Many threads may call it. All methods raise `StoreError`."""

    uri: str

    def get(self, key: str) -> bytes:
        """The whole object. Raises `MissingObject` where there is none."""
        ...

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """`length_bytes` (>= 1) from `offset_bytes`; `StoreError` where the object is shorter."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Download to a local file, atomically (temporary name, fsync, rename)."""
        ...

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        """One attempt to get the object from an offset on, or at most `length_bytes` of it; its
        iteration contacts the store."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object atomically, replacing what was there."""
        ...

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Write `new` where the object still is `old` (None: where there is none); whether it did.

        A store without conditional writes does not look and answers True. Where an answer was lost
        and the request repeated, the answer may be False although `new` is written: look.
        """
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Upload a local file atomically (multipart where it is large)."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in key order."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is an object with exactly this key."""
        ...

    def md5(self, key: str) -> str | None:
        """The MD5 of an object in hex, by the store's own account; None where it keeps none."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        ...


def in_key_order(found: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """By the bytes of their keys in UTF-8; names of files may be other bytes."""
    return sorted(found, key=lambda info: info.key.encode(errors="surrogatepass"))


def whole_part(data: bytes, uri: str, offset_bytes: int, length_bytes: int) -> bytes:
    """`data`, if it has the requested length, else `ShortObject`."""
    if len(data) != length_bytes:
        raise ShortObject(
            f"{uri}: the object is shorter than requested: expected {length_bytes} bytes at "
            f"{offset_bytes}, got {len(data)}",
            fix="pack or upload it again",
        )
    return data
