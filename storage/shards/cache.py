"""The shard cache on this node's disk: shards are fetched once, checked against the manifest, and
shared by threads, processes and later jobs.

Shards are admitted until the cache is full and never evicted: each is used once an epoch, so no
eviction policy can hit more often than that. A shard that does not fit is buffered in memory while
it is read. A file lock for each shard lets ranks of one node download it once. Objects of a
`file://` store are used in place, without a copy.
"""

import errno
import logging
import mmap
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from storage.errors import DamagedObject, ShortObject, StoreError, StoreUnavailable
from storage.files import file_errors, sync_folder
from storage.local import LocalStore
from storage.retry import DOWNLOADS
from storage.shards.cache_files import (
    LOCK,
    PART,
    bytes_in,
    lock_file,
    locked,
    remove_leftovers,
    shards_in,
    size_of,
    taken,
)
from storage.shards.damage import is_stored_so
from storage.shards.fetch import Fetcher
from storage.shards.shards import OpenShard
from storage.shards.wanted_shard import WantedShard
from storage.store import Store
from storage.uris import checked_key

log = logging.getLogger(__name__)

_POLL_S = 0.05
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class CacheCounts(NamedTuple):
    """Shards opened from this node's disk, and shards that had to be fetched."""

    hits: int = 0
    misses: int = 0


class CachedDataset(NamedTuple):
    """The part of the cache that belongs to one dataset."""

    dataset_id: str
    num_shards: int
    size_bytes: int


class ShardCache:
    """Local copies of shards under `folder/DATASET_ID/KEY`. Safe for many threads and processes."""

    def __init__(
        self,
        folder: Path,
        capacity_bytes: int | None = None,
        reserve_bytes: int = 1 << 30,
        memory_bytes: int = 1_500_000_000,
        fetcher: Fetcher | None = None,
    ) -> None:
        """`capacity_bytes` caps the cache; `reserve_bytes` of its disk are always left free;
        `memory_bytes` bounds what readers prefetch into memory where the disk is full."""
        self.folder = folder
        self.capacity_bytes = capacity_bytes
        self.reserve_bytes = reserve_bytes
        self.memory_bytes = memory_bytes
        self.fetcher = fetcher or Fetcher()
        self.counts = CacheCounts()
        self.buffered_bytes = 0
        self._verified: set[Path] = set()
        self._full = self._tidied = False
        self._lock = threading.RLock()  # shards are released wherever memory is cleaned up

    def open(
        self, store: Store, key: str, size_bytes: int, xxh3: str, dataset_id: str
    ) -> OpenShard:
        """The shard with exactly `size_bytes` bytes of xxh3-64 hex digits `xxh3`: from the disk, or
        fetched onto it, or fetched into memory where the disk has no room for it.

        Raises `StoreError` that names the shard where it is unavailable or its bytes stay wrong.
        """
        shard = WantedShard(store, key, size_bytes, xxh3)
        on_disk = self._on_disk(shard, dataset_id)
        return on_disk if on_disk is not None else self._in_memory(shard)

    def open_if_room(
        self, store: Store, key: str, size_bytes: int, xxh3: str, dataset_id: str
    ) -> OpenShard | None:
        """As `open`, but None where the disk has no room."""
        return self._on_disk(WantedShard(store, key, size_bytes, xxh3), dataset_id)

    def close(self) -> None:
        """End all fetches."""
        self.fetcher.close()

    def datasets(self) -> list[CachedDataset]:
        """The content of the cache, by dataset."""
        found = []
        for folder in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            sizes_bytes = [size_of(path) for path in shards_in(folder)]
            if sizes_bytes:
                found.append(CachedDataset(folder.name, len(sizes_bytes), sum(sizes_bytes)))
        return found

    def clear(self, dataset_id: str | None = None) -> int:
        """Remove the shards of one dataset, or all; returns the bytes freed.

        A job that reads them keeps its open shards, and fetches again those that it opens later.
        """
        folder = self.folder
        if dataset_id is not None:
            folder /= checked_key(dataset_id, "dataset_id")
        freed_bytes = remove_leftovers(folder)
        for path in list(shards_in(folder)):
            with file_errors(path), self._shard_lock(path):
                freed_bytes += size_of(path)
                path.unlink(missing_ok=True)
        return freed_bytes

    def _on_disk(self, shard: WantedShard, dataset_id: str) -> OpenShard | None:
        with file_errors(shard.uri):
            if isinstance(shard.store, LocalStore):
                return self._in_place(shard, shard.store.path(shard.key))
            path = self.folder / checked_key(dataset_id, "dataset_id")
            path /= checked_key(shard.key, shard.store.uri)
            return self._opened(path) or self._admitted(shard, path)

    def _in_place(self, shard: WantedShard, path: Path) -> OpenShard:
        """The file itself, read once in this process to compare its checksum."""
        if path not in self._verified:
            fault = shard.fault_of(path)
            if fault:
                raise shard.damaged(fault)
            self._verified.add(path)
        return OpenShard(os.open(path, os.O_RDONLY))

    def _opened(self, path: Path) -> OpenShard | None:
        """A copy that this process has verified before."""
        if path not in self._verified:
            return None
        try:
            opened = OpenShard(os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            return None
        self._count(hits=1)
        return opened

    def _admitted(self, shard: WantedShard, path: Path) -> OpenShard | None:
        """Another process's copy, once verified, or a new one; None where there is no room."""
        with self._shard_lock(path):
            if path.exists() and shard.fault_of(path) is None:
                self._count(hits=1)
            elif self._download(shard, path):
                self._count(misses=1)
            else:
                self._count(misses=1)
                return None
            self._verified.add(path)
            return OpenShard(os.open(path, os.O_RDONLY))

    def _in_memory(self, shard: WantedShard) -> OpenShard:
        """An anonymous file in memory; its bytes count in `buffered_bytes` until it is closed."""
        if shard.size_bytes > self.memory_bytes:
            raise StoreError(
                f"{shard.uri}: the cache {self.folder} has no room for its {shard.size_bytes} "
                f"bytes, nor has memory ({self.memory_bytes} bytes)",
                fix="give the cache a larger disk (stream.cache_gb), raise stream.memory_gb, or "
                "pack smaller shards (--shard-mb)",
            )
        descriptor = os.memfd_create("shard")
        self._buffer(shard.size_bytes)
        try:
            self._fetch(shard, descriptor)
        except BaseException:  # a kept traceback must not keep the memory
            os.close(descriptor)
            self._buffer(-shard.size_bytes)
            raise
        return OpenShard(descriptor, lambda: self._buffer(-shard.size_bytes))

    def _download(self, shard: WantedShard, path: Path) -> bool:
        """Fetch to `path`; False where there is no room. The shard's lock is held."""
        path.unlink(missing_ok=True)
        part = path.with_name(path.name + PART)
        try:
            if not self._reserve(shard, part):
                return False
            with part.open("r+b") as file:
                self._fetch(shard, file.fileno())
                os.fsync(file.fileno())
            with locked(self.folder / LOCK):  # a sum of sizes must see one of the two
                part.replace(path)
            sync_folder(path.parent)
            return True
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._warn_full("its disk is full")
            return False
        finally:
            part.unlink(missing_ok=True)

    def _fetch(self, shard: WantedShard, descriptor: int) -> None:
        """Fetch a shard into a file, again while its bytes are wrong."""

        def fetched() -> None:
            found = self.fetcher.fetch(shard.store, shard.key, shard.size_bytes, descriptor)
            if found != shard.xxh3:
                raise DamagedObject(f"expected xxh3 {shard.xxh3}, got {found}")

        try:
            self.fetcher.policy(DOWNLOADS).call(fetched)
        except ShortObject as error:
            fault = f"expected {shard.size_bytes} bytes, the object has fewer"
            raise shard.damaged(f"{fault}; downloaded {DOWNLOADS} times") from error
        except DamagedObject as error:
            with mmap.mmap(descriptor, shard.size_bytes, prot=mmap.PROT_READ) as data:
                stored_so = is_stored_so(shard.store, shard.key, data)
            fault = f"{error}; downloaded {DOWNLOADS} times"
            raise shard.damaged(fault, stored_so) from error

    def _reserve(self, shard: WantedShard, part: Path) -> bool:
        """Claim room by a file of the shard's size, whose blocks the download fills. Once the cache
        is full it stays full: nothing is evicted."""
        if self._full:
            return False
        with locked(self.folder / LOCK):
            part.unlink(missing_ok=True)
            if not self._tidied:
                remove_leftovers(self.folder)
                self._tidied = True
            limit_bytes = self.capacity_bytes
            if limit_bytes is not None and bytes_in(self.folder) + shard.size_bytes > limit_bytes:
                self._warn_full(f"its limit is {limit_bytes / 1e9:.3g} GB")
            elif shutil.disk_usage(self.folder).free - shard.size_bytes < self.reserve_bytes:
                self._warn_full(f"{self.reserve_bytes / 1e9:.3g} GB of its disk are kept free")
            else:
                with part.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, shard.size_bytes)
                return True
        return False

    def _warn_full(self, reason: str) -> None:
        """Warn once that every epoch now fetches what does not fit."""
        if not self._full:
            self._full = True
            log.warning(
                "the shard cache %s is full (%s): the other shards are fetched again each epoch. "
                "Fix: give it a larger disk (or stream.cache_gb) to read every shard once.",
                self.folder,
                reason,
            )

    @contextmanager
    def _shard_lock(self, path: Path) -> Iterator[None]:
        """Keeps the lock of one shard; waits while another process fetches it.

        Raises `StoreUnavailable` where the cache is closed meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(path).open("ab") as file:
            while not taken(file):
                if self.fetcher.closed.wait(_POLL_S):
                    raise StoreUnavailable(f"{path}: the download was cancelled, as the job ends")
            yield

    def _buffer(self, size_bytes: int) -> None:
        with self._lock:
            self.buffered_bytes += size_bytes

    def _count(self, hits: int = 0, misses: int = 0) -> None:
        with self._lock:
            self.counts = CacheCounts(self.counts.hits + hits, self.counts.misses + misses)
