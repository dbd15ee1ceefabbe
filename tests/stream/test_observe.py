"""What streams did while a job trained, in numbers."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from adapt.stream.observe import Observer
from storage.shards.cache import CacheCounts, ShardCache


def observer_of(tmp_path: Path) -> tuple[Observer, SimpleNamespace, ShardCache]:
    stream, cache = SimpleNamespace(wait_s=5.0, num_ready=3), ShardCache(tmp_path)
    return Observer([stream, stream], cache), stream, cache  # type: ignore[list-item]


def test_waits_are_those_of_each_step_over_all_streams(tmp_path: Path) -> None:
    observer, stream, _ = observer_of(tmp_path)
    for wait_ms in [1.0] * 98 + [2.4, 50.0]:
        stream.wait_s += wait_ms / 1e3
        observer.step()
    observed = observer.take()
    assert observed.wait_p50_ms == pytest.approx(2.0)
    assert 4.8 < observed.wait_p99_ms < 10
    assert observed.stalls == 1 and observed.queue_depth == 6


def test_counts_are_those_since_the_last_report(tmp_path: Path) -> None:
    observer, _, cache = observer_of(tmp_path)
    cache.fetcher.count(fetched_bytes=3_000_000, retries=2, hedges=1)
    cache.counts = CacheCounts(hits=1, misses=3)
    observed = observer.take()
    assert (observed.fetched_mb, observed.retries, observed.hedges) == (3.0, 2, 1)
    assert observed.hit_rate == 0.25
    assert observer.take() == (0, 0, 0, 0, 0, 0, 0, 1)
