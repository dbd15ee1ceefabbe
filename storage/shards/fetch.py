"""Fetches one object from a store into an open file, through faults of network and store.

A request that breaks off is followed by another from the byte it reached; one that makes next to no
progress for ten seconds is dropped; a straggler gets a second request beside it, and the first
bytes to arrive are taken (hedged requests: Dean and Barroso, The Tail at Scale, CACM 2013). An
unreachable store is retried for ten minutes. Every byte is hashed as it is written, so nothing is
read twice.
"""

import os
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import xxhash

from storage.errors import DamagedObject, ShortObject, StoreError, StoreUnavailable
from storage.retry import DOWNLOADS, OUTAGE_S, Failing, Retry
from storage.shards.damage import UNKNOWN
from storage.store import Download, Store
from storage.transient import DOWNLOAD, TIME
from storage.uris import join

PROGRESS_S = 10.0
"""A fetch that gets fewer than `PROGRESS_BYTES` in this time drops its requests."""
PROGRESS_BYTES = 64 << 10
RETRY_TIME_S = OUTAGE_S
"""Retry time: how long a store may make no progress before the fetch fails."""
HEDGE_FACTOR, HEDGE_LEAST_S = 3.0, 1.0
"""A fetch that takes this many times the median of earlier ones, and this long, is a straggler."""
MEDIAN_OF, MEDIAN_NEEDS = 32, 3
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 3.0
"""Bounds of the waits between requests (storage/retry.py)."""
TICK_S = 0.2


class FetchCounts(NamedTuple):
    """Bytes, retries and second requests since the fetcher was made."""

    fetched_bytes: int = 0
    retries: int = 0
    hedges: int = 0


Write = Callable[[memoryview, int], None]
"""Writes bytes at a position that counts from the first requested byte."""


class Fetcher:
    """Fetches objects for many threads; `close` ends all fetches."""

    def __init__(self, progress_s: float = PROGRESS_S, retry_time_s: float = RETRY_TIME_S) -> None:
        self.progress_s, self.retry_time_s = progress_s, retry_time_s
        self.counts = FetchCounts()
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._s_per_byte: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=MEDIAN_OF)
        )

    def fetch(self, store: Store, key: str, size_bytes: int, descriptor: int) -> str:
        """Write the object's first `size_bytes` to the file `descriptor`, from its start.

        Returns their xxh3-64 in hex. Raises `ShortObject` where the object has fewer bytes,
        `MissingObject`, `StoreError` where the store refuses, `StoreUnavailable` where it made no
        progress for `retry_time_s`, or after `close`, and `OSError` of the file.
        """
        started_s = time.monotonic()
        digest = xxhash.xxh3_64()

        def write(fresh: memoryview, position_bytes: int) -> None:
            digest.update(fresh)
            written = 0
            while written < len(fresh):
                written += os.pwrite(descriptor, fresh[written:], position_bytes + written)

        self._transfer(store, key, 0, size_bytes, write)
        with self._lock:
            self._s_per_byte[store.uri].append((time.monotonic() - started_s) / max(size_bytes, 1))
        return digest.hexdigest()

    def fetch_range(
        self,
        store: Store,
        key: str,
        offset_bytes: int,
        length_bytes: int,
        right: Callable[[bytearray], bool],
    ) -> bytearray:
        """A part of an object, fetched again while `right` says that its bytes are wrong.

        Raises `StoreError` where they stay so, and as `fetch`.
        """

        def fetched() -> bytearray:
            data = bytearray(length_bytes)

            def write(fresh: memoryview, position_bytes: int) -> None:
                data[position_bytes : position_bytes + len(fresh)] = fresh

            self._transfer(store, key, offset_bytes, length_bytes, write)
            if not right(data):
                raise DamagedObject(f"{join(store.uri, key)}: wrong checksum")
            return data

        try:
            return self.policy(DOWNLOADS).call(fetched)
        except (ShortObject, DamagedObject) as error:
            raise StoreError(
                f"{join(store.uri, key)}: {length_bytes} bytes at {offset_bytes} are damaged, "
                f"fetched {DOWNLOADS} times",
                fix=UNKNOWN,
            ) from error

    def _transfer(
        self, store: Store, key: str, offset_bytes: int, length_bytes: int, write: Write
    ) -> None:
        transfer = _Transfer(self, store, key, offset_bytes, length_bytes, write)
        try:
            transfer.run()
        finally:
            transfer.cancel()

    def policy(self, max_attempts: int | None = None) -> Retry:
        """Retries of wrong bytes, or of an unreachable store, for `retry_time_s`, where
        `max_attempts` is None. They are counted; their waits end with `close`."""
        return Retry(
            max_attempts,
            deadline_s=self.retry_time_s if max_attempts is None else float("inf"),
            first_wait_s=FIRST_DELAY_S,
            longest_wait_s=LONGEST_DELAY_S,
            on=TIME if max_attempts is None else DOWNLOAD,
            wait=self._wait,
        )

    def _wait(self, wait_s: float) -> None:
        """Returns nothing: after `close`, the next attempt itself raises the reason."""
        self.closed.wait(wait_s)
        self.count(retries=1)

    def close(self) -> None:
        """Make every fetch fail soon, as the job ends."""
        self.closed.set()

    def count(self, fetched_bytes: int = 0, retries: int = 0, hedges: int = 0) -> None:
        """Add to `counts`."""
        added = (fetched_bytes, retries, hedges)
        with self._lock:
            self.counts = FetchCounts(*map(sum, zip(self.counts, added, strict=True)))

    def straggles_after_s(self, store: Store, size_bytes: int) -> float:
        """Seconds after which a fetch of this size is a straggler; infinity before there
        is a median of this store."""
        with self._lock:
            earlier = self._s_per_byte[store.uri]
            if len(earlier) < MEDIAN_NEEDS:
                return float("inf")
            usual_s = statistics.median(earlier) * size_bytes
        return max(HEDGE_FACTOR * usual_s, HEDGE_LEAST_S)


class _Transfer:
    """Bytes of one object on their way: the requests for them, and how far they have come.

    `covered_bytes`, and all positions, count from `offset_bytes`.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: Store,
        key: str,
        offset_bytes: int,
        size_bytes: int,
        write: Write,
    ) -> None:
        self.fetcher, self.store, self.key = fetcher, store, key
        self.offset_bytes, self.size_bytes, self.write = offset_bytes, size_bytes, write
        self.covered_bytes = 0
        self._changed = threading.Condition()
        self._live: list[Download] = []
        self._failure: BaseException | None = None
        self._over = False
        self._failing = Failing(fetcher.policy())
        self._hedge_s = time.monotonic() + fetcher.straggles_after_s(store, size_bytes)
        self._watched_s = time.monotonic()
        self._mark_bytes = 0

    def run(self) -> None:
        """Send requests until every byte has arrived. Raises as `Fetcher.fetch`."""
        self._send()
        while self.covered_bytes < self.size_bytes:
            if not self._live:
                self._send_again()
            elif time.monotonic() >= self._hedge_s:
                self._hedge_s = float("inf")
                self.fetcher.count(hedges=1)
                self._send()
            with self._changed:
                if self._live and self.covered_bytes < self.size_bytes:
                    self._changed.wait(TICK_S)
            self._check_open()
            self._watch()

    def cancel(self) -> None:
        """End all requests; none writes afterwards, as the descriptor may be another file's."""
        with self._changed:
            self._over = True
        self._drop()

    @property
    def _uri(self) -> str:
        return join(self.store.uri, self.key)

    def _check_open(self) -> None:
        if self.fetcher.closed.is_set():
            raise StoreUnavailable(f"{self._uri}: the download was cancelled, as the job ends")

    def _watch(self) -> None:
        """Note progress; drop the requests of a stalled download."""
        now_s = time.monotonic()
        if self.covered_bytes - self._mark_bytes >= PROGRESS_BYTES:
            self._mark_bytes, self._watched_s = self.covered_bytes, now_s
            self._failing.end()
        elif now_s - self._watched_s >= self.fetcher.progress_s:
            self._failure = StoreUnavailable(
                f"{self._uri}: download stalled: {self.covered_bytes - self._mark_bytes} bytes in "
                f"{self.fetcher.progress_s:g} s"
            )
            self._drop()

    def _drop(self) -> None:
        with self._changed:
            dropped, self._live = self._live, []
        for download in dropped:
            download.cancel()

    def _send(self) -> None:
        """Start a request for what is missing, in a thread of its own."""
        self._check_open()
        self._watched_s = time.monotonic()
        with self._changed:
            position_bytes = self.covered_bytes
            download = self.store.download(
                self.key,
                self.offset_bytes + position_bytes,
                self.size_bytes - position_bytes,
            )
            self._live.append(download)
        threading.Thread(
            target=self._receive, args=(download, position_bytes), name="request", daemon=True
        ).start()

    def _send_again(self) -> None:
        """After a transient failure: wait, and request the rest."""
        failure = self._failure or StoreUnavailable(f"{self._uri}: the answer ended too early")
        if not isinstance(failure, TIME):
            raise failure
        self._failing.wait(failure)
        self._failure = None
        self._send()

    def _receive(self, download: Download, start_bytes: int) -> None:
        """Write the bytes of a request, to its end."""
        position_bytes = start_bytes
        with suppress(StoreError, OSError):  # `run` raises it
            try:
                for block in download:
                    self._take(block, position_bytes)
                    position_bytes += len(block)
            finally:
                self.fetcher.count(fetched_bytes=position_bytes - start_bytes)
                with self._changed:
                    if download in self._live:
                        self._live.remove(download)
                        self._failure = sys.exception()
                    self._changed.notify_all()

    def _take(self, block: bytes, position_bytes: int) -> None:
        """Write those bytes of a block that no other request has fetched before."""
        with self._changed:
            if self._over or self.covered_bytes >= self.size_bytes:
                return
            known_bytes = self.covered_bytes - position_bytes
            fresh = memoryview(block)[known_bytes : self.size_bytes - position_bytes]
            self.write(fresh, self.covered_bytes)
            self.covered_bytes += len(fresh)
            if self.covered_bytes >= self.size_bytes and len(self._live) > 1:
                self._changed.notify_all()  # alone, it ends immediately
