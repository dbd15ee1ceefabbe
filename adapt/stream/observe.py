"""Statistics of streams while a job trains: waits of its steps, bytes and requests of fetching."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adapt.stream.stream import Stream
from storage.shards.cache import CacheCounts, ShardCache
from storage.shards.fetch import FetchCounts

STALL_S = 0.005
"""A step that waits longer for its data has stalled."""


class Observed(NamedTuple):
    """One stretch of training on one rank; each field is the metric `stream/FIELD`.

    `wait_p50_ms` and `wait_p99_ms` are quantiles over steps of the time a step waited for data,
    `stalls` the steps that waited over 5 ms, `queue_depth` the mean number of batches that were
    ready, `fetched_mb` bytes that came from the store in 10^6, `retries` requests that were
    repeated, `hedges` second requests beside a straggler, `hit_rate` the share in [0, 1] of the
    shards opened that lay on the node's disk (1 where none was opened).
    """

    wait_p50_ms: float
    wait_p99_ms: float
    stalls: int
    queue_depth: float
    fetched_mb: float
    retries: int
    hedges: int
    hit_rate: float


class Observer:
    """Collects the numbers of `Observed`, step by step."""

    def __init__(self, streams: Sequence[Stream], cache: ShardCache) -> None:
        self._streams, self._cache = streams, cache
        self._waited_s = 0.0
        self._restart()

    def step(self) -> None:
        """To be called after each step's batches were taken."""
        wait_s = self._wait_s()
        self._waits_s.append(wait_s - self._waited_s)
        self._waited_s = wait_s
        self._depths.append(sum(stream.num_ready for stream in self._streams))

    def take(self) -> Observed:
        """The numbers since the last call."""
        waits_ms = np.array(self._waits_s or [0.0]) * 1e3
        fetched = FetchCounts(*_since(self._cache.fetcher.counts, self._fetched))
        opened = CacheCounts(*_since(self._cache.counts, self._opened))
        observed = Observed(
            wait_p50_ms=float(np.quantile(waits_ms, 0.5)),
            wait_p99_ms=float(np.quantile(waits_ms, 0.99)),
            stalls=int((waits_ms > STALL_S * 1e3).sum()),
            queue_depth=float(np.mean(self._depths or [0])),
            fetched_mb=fetched.fetched_bytes / 1e6,
            retries=fetched.retries,
            hedges=fetched.hedges,
            hit_rate=opened.hits / sum(opened) if sum(opened) else 1.0,
        )
        self._restart()
        return observed

    def _restart(self) -> None:
        self._waits_s: list[float] = []
        self._depths: list[int] = []
        self._waited_s = self._wait_s()
        self._fetched, self._opened = self._cache.fetcher.counts, self._cache.counts

    def _wait_s(self) -> float:
        return sum(stream.wait_s for stream in self._streams)


def _since(now: Sequence[int], before: Sequence[int]) -> list[int]:
    return [later - earlier for later, earlier in zip(now, before, strict=True)]
