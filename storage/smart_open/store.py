"""Single objects behind https, gs, az, hdfs, ftp and what else smart_open opens.

These stores read, and write where the scheme can; they neither list nor delete. A write is atomic
over gs, az and hdfs; over ftp, sftp and webhdfs a reader may see a part. What a URI says of users,
passwords and signatures (`https://user:password@host/data?sig=...`) goes into requests and never
into messages.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn, TypeVar

from storage.config import StoreConfig
from storage.downloads import BLOCK_BYTES, BlockDownload, Body, Readable, blocks_of
from storage.errors import MissingObject, ShortObject, StoreError
from storage.files import atomic_file, file_errors
from storage.retry import retried
from storage.smart_open.errors import explained
from storage.smart_open.files import Files
from storage.smart_open.uri import WEB, find_target
from storage.store import Download, ObjectInfo, whole_part
from storage.uris import checked_key

_Result = TypeVar("_Result")


class SmartOpenStore:
    """`Store` over one place that smart_open reaches, without `list` and `delete`."""

    def __init__(
        self, uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
    ) -> None:
        self.config, self.name = config, name
        self.target = find_target(uri, config, environment, name)
        self.uri = self.target.uri
        self._files = Files(self.target, config, environment, name)
        self._answered = False

    def get(self, key: str) -> bytes:
        """The whole object."""
        return self._tried(key, lambda: self._read(key, 0, None))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly `length_bytes` (>= 1) from `offset_bytes`."""
        assert offset_bytes >= 0 and length_bytes >= 1, (offset_bytes, length_bytes)
        data = self._tried(key, lambda: self._read(key, offset_bytes, length_bytes))
        return whole_part(data, self.target.shown(key), offset_bytes, length_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, atomically."""

        def copied() -> None:
            body = self._opened(key, 0, None)
            try:
                with file_errors(path), atomic_file(path) as file:
                    for block in blocks_of(body.file):
                        file.write(block)
            finally:
                body.file.close()

        self._tried(key, copied)

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        """One attempt to read from an offset on; where a scheme cannot, bytes are read past."""
        checked_key(key, self.uri)

        def opened() -> Body:
            body = self._opened(key, offset_bytes, length_bytes)
            self._answered = True
            return body

        return BlockDownload(self.target.shown(key), offset_bytes, opened, length_bytes)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object."""
        self._written(key, lambda: iter([data]))

    def put_file(self, key: str, path: Path) -> None:
        """Write a local file's bytes."""
        checked_key(key, self.uri)

        def blocks() -> Iterator[bytes]:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    yield block

        with file_errors(path), path.open("rb"):
            pass
        self._written(key, blocks)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Refused: smart_open opens objects and knows no folders."""
        if "/" in prefix:
            checked_key(prefix.rpartition("/")[0], self.uri)
        self._refuse("listed")

    def exists(self, key: str) -> bool:
        """Whether the object can be opened."""
        try:
            self._tried(key, lambda: self._read(key, 0, 1))
        except MissingObject:
            return False
        except ShortObject:  # it is empty
            return True
        return True

    def delete(self, key: str) -> None:
        """Refused, as `list`."""
        checked_key(key, self.uri)
        self._refuse("deleted")

    def _refuse(self, verb: str) -> NoReturn:
        raise StoreError(
            f"{self.uri}: objects cannot be {verb} over {self.target.scheme}; checkpoints and data "
            "sets that are being packed or merged need file, s3 or obs"
        )

    def _read(self, key: str, offset_bytes: int, length_bytes: int | None) -> bytes:
        body = self._opened(key, offset_bytes, length_bytes)
        try:
            found = bytearray()
            for block in blocks_of(body.file):
                found += block
                if length_bytes is not None and len(found) >= length_bytes:
                    break
            return bytes(found[:length_bytes])
        finally:
            body.file.close()

    def _opened(self, key: str, offset_bytes: int, length_bytes: int | None) -> Body:
        with self._explained(key):
            body = self._files.opened(checked_key(key, self.uri), offset_bytes, length_bytes)
        return Body(
            _Explained(body.file, lambda: self._explained(key)), body.stop, body.length_bytes
        )

    def _written(self, key: str, blocks: Callable[[], Iterator[bytes]]) -> None:
        checked_key(key, self.uri)
        if self.target.scheme in WEB:
            raise StoreError(
                f"{self.target.shown(key)}: {self.target.scheme} is for reading only; write to "
                "file, s3 or obs"
            )

        def write() -> None:
            with self._explained(key), self._files.to_write(key) as file:
                for block in blocks():
                    file.write(block)

        self._tried(key, write)

    def _tried(self, key: str, operation: Callable[[], _Result]) -> _Result:
        checked_key(key, self.uri)

        def once() -> _Result:
            result = operation()
            self._answered = True
            return result

        return retried(once, self.config.max_attempts)

    def _explained(self, key: str) -> AbstractContextManager[None]:
        return explained(self.target, key, self.name, self._answered)


class _Explained:
    """A file whose reads fail with `StoreError`s."""

    def __init__(
        self, file: Readable, explained: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._file, self._explained = file, explained

    def read1(self, size: int, /) -> bytes:
        """As `Readable`."""
        with self._explained():
            return self._file.read1(size)

    def close(self) -> None:
        """As `Readable`."""
        self._file.close()
