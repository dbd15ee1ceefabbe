"""The files of a checkpoint: written where no disk can be full, their checksums, and weights that
are fetched and checked for the command line."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from adapt.errors import DataError
from storage.errors import MissingObject
from storage.files import atomic_file, file_errors
from storage.retry import DOWNLOADS, Retry
from storage.shards.fetch import Fetcher
from storage.store import Store
from storage.transient import DOWNLOAD
from storage.uris import join

_DOWNLOAD_RETRY_S = 60.0
"""Longest time without progress of a download for the command line."""


@contextmanager
def memory_file(name: str) -> Iterator[Path]:
    """A file in memory where the system has such, so that a full scratch disk stops no save."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory(prefix="segadapt-save-") as folder:
            yield Path(folder) / name
        return
    descriptor = os.memfd_create(name)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(
    store: Store, key: str, path: Path, sha256: str | None = None, fetcher: Fetcher | None = None
) -> dict[str, Tensor]:
    """Download a `.safetensors` file to `path`, check it and load it.

    What breaks off is resumed, what stalls is dropped and asked for again, wrong bytes are
    downloaded again (`Fetcher`). Raises `DataError` where they stay wrong, `StoreError` of the
    store or of the local file, which it names.
    """
    fetcher = fetcher or Fetcher(retry_time_s=_DOWNLOAD_RETRY_S)
    sizes = {info.key: info.size_bytes for info in store.list(key)}
    if key not in sizes:
        raise MissingObject(f"{join(store.uri, key)}: there is no such object")

    def download() -> None:
        with file_errors(path), atomic_file(path) as file:
            fetcher.fetch(store, key, sizes[key], file.fileno())
            _check(Path(file.name), sha256, join(store.uri, key))

    Retry(DOWNLOADS, longest_wait_s=3.0, on=(DataError, *DOWNLOAD)).call(download)
    return load_file(path)


def _check(path: Path, sha256: str | None, uri: str) -> None:
    found = sha256_of(path)
    if sha256 is not None and found != sha256:
        raise DataError(
            f"{uri}: expected sha256 {sha256}, got {found}",
            "take another checkpoint of the run: this one was changed where it is stored",
        )
