"""A stream through everything that goes wrong between a node and its store: the samples of a calm
run, each once and in order, soon, in bounded memory, and counted.

Every fault hits a real store's answers on their way through a proxy, while a fresh cache is filled.
"""

import threading
import time

import pytest

from adapt.stream.orders import ORDERS, Sampling
from storage.shards.fetch import PROGRESS_S
from tests.storage.broken_answers import Cut, Stall, Trickle
from tests.stream.fault_bed import (
    AFTER_DROP_S,
    BATCHES,
    BUSY_S,
    FAULTS,
    FIRST,
    LATER,
    NUM_SAMPLES,
    RECOVERY_S,
    SILENT,
    Bed,
    assert_recovered,
    calm,
    lines,
)

SILENCES_S = [
    pytest.param(1.0, id="1 s"),
    pytest.param(PROGRESS_S, id="10 s", marks=[pytest.mark.slow, pytest.mark.nightly]),
]
"""After how long without progress a request is dropped; the second is what jobs have."""

UNHEDGED = [(name, FIRST) for name in SILENT]
"""Faults that nothing but a timeout ends."""


@pytest.mark.slow
def test_the_split_and_the_bounds_are_what_these_tests_assume(bed: Bed) -> None:
    shards = bed.manifest.shards
    assert 8 <= len(shards) <= 14
    assert all(shard.size_bytes > 120_000 for shard in shards)
    seen = calm(bed)
    assert len(set(seen.samples)) == NUM_SAMPLES
    assert seen.counts.retries == seen.counts.hedges == 0
    assert seen.counts.fetched_bytes == sum(shard.size_bytes for shard in shards)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "when"),
    [(name, when) for name in FAULTS for when in (FIRST, LATER) if (name, when) not in UNHEDGED],
)
def test_a_fault_changes_no_sample(name: str, when: str, bed: Bed) -> None:
    expected, key = calm(bed), bed.shard(when)
    bed.proxy.order(FAULTS[name], key, times=2 if name == "503" else 1)
    seen = bed.run()
    assert bed.proxy.num_ordered == 0
    assert_recovered(seen, expected)
    assert seen.counts.retries + seen.counts.hedges > 0


@pytest.mark.slow
@pytest.mark.parametrize("progress_s", SILENCES_S)
@pytest.mark.parametrize(("name", "when"), UNHEDGED)
def test_a_request_without_progress_is_dropped(
    name: str, when: str, progress_s: float, bed: Bed
) -> None:
    """Before a stream knows how long a shard takes, no second request goes beside a straggler."""
    expected, key = calm(bed), bed.shard(when)
    bed.proxy.order(FAULTS[name], key)
    seen = bed.run(progress_s=progress_s)
    assert bed.proxy.num_ordered == 0
    assert seen.seconds >= progress_s
    assert_recovered(seen, expected, progress_s + AFTER_DROP_S)
    assert seen.counts.retries > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cut body", "reset in the body"])
def test_what_has_come_is_not_asked_for_again(name: str, bed: Bed) -> None:
    key = bed.shard(FIRST)
    bed.proxy.order(FAULTS[name], key)
    bed.run(batches=3)
    first, *rest = [str(asked).removeprefix("bytes=").split("-") for asked in bed.proxy.ranges(key)]
    assert first[0] == "0" and len(rest) == 1
    assert int(rest[0][0]) > 0 and rest[0][1] == first[1]


@pytest.mark.slow
def test_faults_on_every_shard_change_no_sample(bed: Bed) -> None:
    expected = calm(bed)
    faults = [fault for name, fault in FAULTS.items() if name not in SILENT]
    for number, shard in enumerate(bed.manifest.shards):
        bed.proxy.order(faults[number % len(faults)], shard.name)
        bed.proxy.order(faults[(number + 3) % len(faults)], shard.name)
    seen = bed.run()
    assert bed.proxy.num_ordered == 0
    assert_recovered(seen, expected, 3 * RECOVERY_S)
    assert seen.counts.retries >= len(bed.manifest.shards)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ORDERS)
def test_faults_change_nothing_where_the_cache_is_too_small(sampling: Sampling, bed: Bed) -> None:
    """Shards are held in memory then, or single samples fetched."""
    expected = calm(bed, sampling)
    for name in ("cut body", "flipped byte", "503", "reset in the body"):
        for shard in bed.manifest.shards[::2]:
            bed.proxy.order(Cut(3000) if name == "cut body" else FAULTS[name], shard.name)
    seen = bed.run(sampling, capacity_bytes=300_000)
    assert_recovered(seen, expected, 3 * RECOVERY_S)


@pytest.mark.slow
@pytest.mark.parametrize("progress_s", SILENCES_S)
@pytest.mark.parametrize("name", SILENT)
def test_single_samples_are_not_waited_for_forever(name: str, progress_s: float, bed: Bed) -> None:
    expected = calm(bed, "papers")
    fault = Trickle(1000) if name == "slow trickle" else Stall(1000 if name == "stall" else 0)
    bed.proxy.order(fault, "shard-")
    with bed.stream("papers", 1, progress_s) as stream:

        def give_up() -> None:
            stream.split.cache.close()
            bed.proxy.reset_connections()

        watch = threading.Timer(3 * RECOVERY_S, give_up)  # a trickle would take hours
        watch.start()
        started_s = time.monotonic()
        samples = [line for _ in range(BATCHES) for line in lines(next(stream))]
        seconds = time.monotonic() - started_s
        watch.cancel()
    assert bed.proxy.num_ordered == 0
    assert samples == expected.samples
    assert progress_s <= seconds <= expected.seconds + progress_s + AFTER_DROP_S + BUSY_S


def test_connections_that_end_again_and_again_are_no_damage(bed: Bed) -> None:
    expected, key = calm(bed), bed.shard(LATER)
    bed.proxy.order(Cut(0), key, times=4)
    seen = bed.run()
    assert bed.proxy.num_ordered == 0
    assert_recovered(seen, expected)
