"""Shards on this node's disk: fetched once, checked against the manifest, shared by threads and
processes.

Shards are admitted until the cache is full and never evicted: each is used once an epoch, so no
eviction policy can hit more often than that. A file lock a shard lets ranks of one node download a
shard once. Objects of a `file://` store are used where they are, without a copy.
"""

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from storage.local import LocalStore, file_errors, sync_folder
from storage.shards import xxh3_of
from storage.store import TEMPORARY_PREFIX, Store, StoreError, checked_key, join

_DOWNLOADS = 3
_PART = ".part"
_LOCK = ".lock"


class ShardCache:
    """Local copies of shards under `folder/DATASET_ID/KEY`. Safe for many threads and processes."""

    def __init__(
        self, folder: Path, capacity_bytes: int | None = None, reserve_bytes: int = 1 << 30
    ) -> None:
        """`capacity_bytes` caps the cache; `reserve_bytes` of its disk are always left free."""
        self.folder = folder
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = reserve_bytes
        self._verified: set[Path] = set()

    def fetch(self, store: Store, key: str, size_bytes: int, xxh3: str, dataset_id: str) -> Path:
        """A local file with exactly the shard's bytes: `size_bytes`, xxh3-64 hex digits `xxh3`.

        Raises `StoreError` naming the shard where its bytes stay wrong or the cache is full.
        """
        shard = _Shard(store, key, size_bytes, xxh3)
        if isinstance(store, LocalStore):
            return self._in_place(shard, store.path(key))
        path = self.folder / checked_key(dataset_id, "dataset_id") / checked_key(key, store.uri)
        if path in self._verified and path.exists():
            return path
        with file_errors(shard.uri), _locked(path.with_name(path.name + _LOCK)):
            if not (path.exists() and _fault(shard, path) is None):
                self._download(shard, path)
        self._verified.add(path)
        return path

    def _in_place(self, shard: "_Shard", path: Path) -> Path:
        """The file itself, read once in this process to compare its checksum."""
        if path not in self._verified:
            with file_errors(shard.uri):
                fault = _fault(shard, path)
            if fault:
                raise StoreError(_damaged(shard, fault))
            self._verified.add(path)
        return path

    def _download(self, shard: "_Shard", path: Path) -> None:
        """Fetch to `path`, again while the bytes are wrong. The shard's lock is held."""
        path.unlink(missing_ok=True)
        part = path.with_name(path.name + _PART)
        for leftover in path.parent.glob(f"{TEMPORARY_PREFIX}*-{glob.escape(part.name)}"):
            leftover.unlink()  # of a process that was killed
        self._reserve(shard, part)
        try:
            for _ in range(_DOWNLOADS):
                shard.store.get_file(shard.key, part)
                fault = _fault(shard, part)
                if fault is None:
                    with _locked(self.folder / _LOCK):  # whoever sums up sizes must see one of them
                        part.replace(path)
                    sync_folder(path.parent)
                    return
            raise StoreError(f"{_damaged(shard, str(fault))}; downloaded {_DOWNLOADS} times")
        finally:
            part.unlink(missing_ok=True)

    def _reserve(self, shard: "_Shard", part: Path) -> None:
        """Claim room by a sparse file of the shard's size, which the download replaces."""
        with _locked(self.folder / _LOCK):
            part.unlink(missing_ok=True)
            used_bytes, coming_bytes = self._sizes()
            self._check_capacity(shard, used_bytes + coming_bytes)
            self._check_disk(shard, shutil.disk_usage(self.folder).free - coming_bytes)
            with part.open("wb") as file:
                file.truncate(shard.size_bytes)

    def _check_capacity(self, shard: "_Shard", used_bytes: int) -> None:
        capacity_bytes = self.capacity_bytes
        if capacity_bytes is not None and used_bytes + shard.size_bytes > capacity_bytes:
            raise StoreError(
                f"{shard.uri}: the cache {self.folder} is full: {used_bytes} of {capacity_bytes} "
                f"bytes used, {shard.size_bytes} more needed; raise its capacity or empty it"
            )

    def _check_disk(self, shard: "_Shard", free_bytes: int) -> None:
        if free_bytes - shard.size_bytes < self.reserve_bytes:
            raise StoreError(
                f"{shard.uri}: no room on the disk of {self.folder}: {free_bytes} bytes free, "
                f"{shard.size_bytes} needed and {self.reserve_bytes} kept in reserve; free space "
                "or put the cache on another disk"
            )

    def _sizes(self) -> tuple[int, int]:
        """(bytes of whole shards, bytes of shards on their way) in the cache's folder."""
        whole_bytes = coming_bytes = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    continue
                size_bytes = _size(Path(folder, name))
                if name.endswith(_PART):
                    coming_bytes += size_bytes
                else:
                    whole_bytes += size_bytes
        return whole_bytes, coming_bytes


class _Shard(NamedTuple):
    """What the manifest promises of one shard, and the store that has it."""

    store: Store
    key: str
    size_bytes: int
    xxh3: str

    @property
    def uri(self) -> str:
        return join(self.store.uri, self.key)


def _fault(shard: _Shard, path: Path) -> str | None:
    """What is wrong with the bytes at `path`, or None; the size is compared first."""
    size_bytes = path.stat().st_size
    if size_bytes != shard.size_bytes:
        return f"expected {shard.size_bytes} bytes, found {size_bytes}"
    found = xxh3_of(path)
    return None if found == shard.xxh3 else f"expected xxh3 {shard.xxh3}, found {found}"


def _damaged(shard: _Shard, fault: str) -> str:
    return f"{shard.uri}: truncated or damaged shard: {fault}; pack or upload this data set again"


def _size(path: Path) -> int:
    """Size in bytes; 0 where another process has just renamed the file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`; the kernel frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
