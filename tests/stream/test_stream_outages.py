"""A stream whose store is away or answers wrongly for long: it waits, says which shard is wrong,
ends at once where it is closed, and keeps nothing of it all."""

import gc
import time
import tracemalloc
from pathlib import Path

import pytest

from storage.errors import StoreError
from tests.storage.broken_answers import Answer, Flip, Stall
from tests.stream.fault_bed import (
    BATCHES,
    FAULTS,
    LATER,
    RECOVERY_S,
    SILENT,
    Bed,
    assert_recovered,
    calm,
    traced,
)

THRICE_IS_DAMAGE = ("flipped byte", "an empty answer", "a page to log in")
"""Faults that look like a damaged object, where three meet one shard."""
GROWTH_BYTES = 2 << 20
"""Of what is kept from one faulty epoch to a later one; each fetches more than this."""


OUTAGE_S = 120.0


def test_a_shard_that_stays_wrong_is_named(bed: Bed) -> None:
    key = bed.shard(LATER)
    bed.proxy.order(Flip(60_000), key, times=9)
    with pytest.raises(StoreError, match=f"train/{key}: truncated or damaged shard: .*3 times"):
        bed.run()
    assert bed.proxy.num_ordered == 9 - 3


@pytest.mark.slow
def test_a_page_to_log_in_is_named(bed: Bed) -> None:
    key = bed.shard(LATER)
    bed.proxy.order(Answer(200, page="<html><title>Please log in</title></html>"), key, times=9)
    with pytest.raises(StoreError, match=f"train/{key}: .*Please log in"):
        bed.run()


@pytest.mark.slow
def test_nothing_piles_up_over_faulty_epochs(bed: Bed) -> None:
    """Neither memory nor open files; two thirds of the shards are fetched in every epoch."""
    left_out = (*SILENT, *THRICE_IS_DAMAGE)  # by chance, one shard may meet three
    faults = [fault for name, fault in FAULTS.items() if name not in left_out]
    largest_bytes = max(shard.size_bytes for shard in bed.manifest.shards)
    kept_bytes, open_files = [], []
    with bed.stream(capacity_bytes=1_000_000) as stream, traced():
        for number in range(5 * BATCHES):
            bed.proxy.order(faults[number % len(faults)], "shard-")
            next(stream)
            held_bytes = stream.split.cache.buffered_bytes
            assert held_bytes <= 7 * largest_bytes, "three windows of two, and one released"
            if (number + 1) % BATCHES == 0:
                gc.collect()  # clients of boto3 that were given up
                kept_bytes.append(tracemalloc.get_traced_memory()[0])
                open_files.append(len(list(Path("/proc/self/fd").iterdir())))
    cache = stream.split.cache
    del stream
    gc.collect()
    assert cache.buffered_bytes == 0
    assert min(kept_bytes[2:]) - kept_bytes[1] < GROWTH_BYTES, "one may hold two clients for once"
    assert open_files[-1] - open_files[1] < 10


@pytest.mark.parametrize("name", ["away", "stalled"])
def test_a_stream_is_closed_at_once_whatever_the_store_does(name: str, bed: Bed) -> None:
    with bed.stream() as stream:
        next(stream)
        if name == "away":
            bed.proxy.outage(60.0)
        else:
            bed.proxy.order(Stall(1000), "shard-", times=9)
        stream.split.want(range(len(bed.manifest.shards)))
        time.sleep(0.5)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 5


@pytest.mark.slow
def test_a_short_outage_is_waited_for(bed: Bed) -> None:
    expected = calm(bed)
    seen = bed.run(at_batch=lambda number: number == 3 and bed.proxy.outage(3.0))
    assert seen.seconds >= 3.0 and seen.counts.retries > 0
    assert_recovered(seen, expected, 3.0 + RECOVERY_S)


@pytest.mark.slow
@pytest.mark.nightly
def test_an_outage_of_two_minutes_is_waited_for(bed: Bed) -> None:
    expected = calm(bed)
    seen = bed.run(at_batch=lambda number: number == 3 and bed.proxy.outage(OUTAGE_S))
    assert seen.seconds >= OUTAGE_S
    assert_recovered(seen, expected, OUTAGE_S)
    assert seen.counts.retries > 10
