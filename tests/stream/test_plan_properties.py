"""What every plan promises, whatever is packed and however it is read: hypothesis over the rows of
`ORDERS`, alone and behind real streams over samples that exist in memory alone.

`test_order.py` says what each row draws.
"""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.orders.order import LOOKAHEAD_DRAWS, Order, ScatteredOrder
from adapt.stream.orders.rare_classes import RareClassOrder
from adapt.stream.orders.windows import WindowOrder
from adapt.stream.stream import Stream
from tests.commands import ROOT
from tests.stream.listed import ListedSplit, built, class_pixels

EVERY_ROW = pytest.mark.parametrize("sampling", ORDERS)
SCATTERED = [name for name, row in ORDERS.items() if issubclass(row, ScatteredOrder)]

FROZEN_SHA256 = {
    "windows": "81bf4b17669069ed9c414395a79ddf265864a52ef5d5ce487d492ff5e9053684",
    "papers": "c6c41f6ddc6c9a86238cd66e64b78737532ea89eb1356759f5a563ca699feb3e",
    "rare_classes": "32bfc6528a81fb93a12a6fc6b3435516af83c539a3f2f41cb394d030d3b6593c",
}
"""Of 20,000 draws from 0 and 1,000 far ones, as int32: no version may order them otherwise."""


class Packed(NamedTuple):
    """What a plan knows of a split, and the settings that make it another plan."""

    shard_sizes: tuple[int, ...]
    seed: int = 1234
    domain: int = 0
    window_shards: int = 3
    planned_draws: int = 50

    def order(self, sampling: Sampling) -> Order:
        """The plan of one row, made anew."""
        split = ListedSplit(self.shard_sizes)
        return built(
            sampling, split, self.seed, self.domain, self.planned_draws, self.window_shards
        )

    def windows(self) -> WindowOrder:
        """The plan by windows."""
        return WindowOrder(self.shard_sizes, self.seed, self.domain, self.window_shards)


packed_splits = st.builds(
    Packed,
    shard_sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12).map(tuple),
    seed=st.integers(0, 2**63 - 1),
    domain=st.integers(0, 1),
    window_shards=st.integers(1, 5),
    planned_draws=st.integers(1, 200),
)
far_draws = st.integers(0, 3000) | st.integers(2**31, 2**31 + 3000)


def drawn(order: Order, start: int, count: int) -> list[int]:
    """The samples of `count` draws."""
    return [order.sample(draw) for draw in range(start, start + count)]


def shard_of(order: Order, sample: int) -> int:
    """The shard that holds a sample, by counting."""
    for shard, size in enumerate(order.shard_sizes):
        if sample < size:
            return shard
        sample -= size
    raise AssertionError("no such sample")


@EVERY_ROW
@settings(max_examples=40, deadline=None)
@given(packed_splits, st.lists(far_draws, min_size=1, max_size=12), st.randoms())
def test_a_draw_depends_on_nothing_but_the_plan(
    sampling: Sampling, packed: Packed, draws: list[int], random: object
) -> None:
    known = {draw: packed.order(sampling).sample(draw) for draw in draws}
    for other in range(10):  # more plans than any cache of them keeps
        drawn(packed._replace(seed=packed.seed ^ other).order(sampling), draws[0], 3)
    random.shuffle(draws)  # type: ignore[attr-defined]
    again = packed.order(sampling)
    assert {draw: again.sample(draw) for draw in draws} == known
    assert all(0 <= sample < sum(packed.shard_sizes) for sample in known.values())


def test_plans_that_differ_in_their_labels_alone_are_told_apart() -> None:
    """Equality leaves the labels out, so no cache may go by it."""
    pixels = np.zeros((20, 2), np.int64)
    pixels[:10, 0] = pixels[10:, 1] = 5000
    one, other = (
        RareClassOrder((20,), 5, 0, label_pixels=where) for where in (pixels, pixels[:, ::-1])
    )
    for draw in range(50):
        assert one.sample(draw) // 10 == one.wanted_class(draw)
        assert other.sample(draw) // 10 == 1 - other.wanted_class(draw)


@EVERY_ROW
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63 - 1), far_draws)
def test_no_two_epochs_seeds_or_streams_are_alike(sampling: Sampling, seed: int, draw: int) -> None:
    packed = Packed((12, 12, 12), seed, planned_draws=36)
    plans = (packed, packed._replace(seed=seed + 1), packed._replace(domain=1))
    parts = [drawn(plan.order(sampling), draw + later, 36) for plan in plans for later in (0, 36)]
    assert len(set(map(tuple, parts))) == 6


@settings(max_examples=60, deadline=None)
@given(packed_splits, st.integers(0, 5))
def test_windows_share_the_shards_out_and_stay_until_their_end(packed: Packed, epoch: int) -> None:
    order = packed.windows()
    draws = range(epoch * order.num_samples, (epoch + 1) * order.num_samples)
    by_window: dict[tuple[int, ...], list[int]] = {}
    for draw in draws:
        by_window.setdefault(tuple(order.window(draw)), []).append(draw)
    assert sorted(sum(by_window, ())) == list(range(len(packed.shard_sizes)))
    for window, members in by_window.items():
        assert len(window) <= packed.window_shards
        assert members == list(range(members[0], members[-1] + 1))
        found = Counter(shard_of(order, order.sample(draw)) for draw in members)
        assert found == {shard: packed.shard_sizes[shard] for shard in window}


@EVERY_ROW
@settings(max_examples=60, deadline=None)
@given(packed_splits, far_draws)
def test_upcoming_shards_are_each_once_and_first_what_is_near(
    sampling: Sampling, packed: Packed, draw: int
) -> None:
    order = packed.order(sampling)
    upcoming, near = order.upcoming_shards(draw), order.near(draw, draw + 1)
    assert len(set(upcoming)) == len(upcoming)
    assert upcoming[: len(near)] == near
    assert shard_of(order, order.sample(draw)) in near


@settings(max_examples=60, deadline=None)
@given(packed_splits, far_draws)
def test_windows_need_the_shards_of_this_window_and_the_next(packed: Packed, draw: int) -> None:
    order = packed.windows()
    window, epoch = order.window(draw), draw - draw % order.num_samples
    start = next(first for first in range(epoch, draw + 1) if order.window(first) == window)
    following = order.window(start + sum(packed.shard_sizes[shard] for shard in window))
    assert order.upcoming_shards(draw) == list(dict.fromkeys([*window, *following]))


@pytest.mark.parametrize("sampling", SCATTERED)
@settings(max_examples=60, deadline=None)
@given(packed_splits, far_draws)
def test_scattered_orders_need_the_shards_of_the_next_draws(
    sampling: Sampling, packed: Packed, draw: int
) -> None:
    order = packed.order(sampling)
    needed = [shard_of(order, sample) for sample in drawn(order, draw, LOOKAHEAD_DRAWS)]
    assert order.upcoming_shards(draw) == list(dict.fromkeys(needed))


@settings(max_examples=60, deadline=None)
@given(packed_splits, far_draws)
def test_windows_need_their_own_shards_then_the_next_ones(packed: Packed, draw: int) -> None:
    order = packed.windows()
    upcoming, window = order.upcoming_shards(draw), order.window(draw)
    epoch = draw - draw % order.num_samples
    start = next(first for first in range(epoch, draw + 1) if order.window(first) == window)
    following = order.window(start + sum(packed.shard_sizes[shard] for shard in window))
    assert upcoming == list(dict.fromkeys([*window, *following]))
    assert shard_of(order, order.sample(draw)) in window


@settings(max_examples=60, deadline=None)
@given(packed_splits, st.floats(1e-4, 10), st.integers(0, 95_000), st.integers(0, 3000))
def test_rare_classes_are_drawn_for_what_they_show(
    packed: Packed, temperature: float, min_pixels: int, draw: int
) -> None:
    pixels = class_pixels(sum(packed.shard_sizes))
    shown = pixels > min_pixels
    if not shown.any():
        return
    order = RareClassOrder(
        packed.shard_sizes, packed.seed, packed.domain, pixels, temperature, min_pixels
    )
    probabilities = order.probabilities
    assert probabilities.sum() == pytest.approx(1)
    assert not probabilities[~shown.any(axis=0)].any()
    kept = [index for index in np.argsort(pixels.sum(axis=0)) if shown[:, index].any()]
    assert (np.diff(probabilities[kept]) <= 0).all(), "a rarer class has the larger share"
    for one in range(draw, draw + 20):
        wanted = order.wanted_class(one)
        assert shown[order.sample(one), wanted]


def digests() -> dict[str, str]:
    """sha256 of a long run of draws of each row."""
    found = {}
    for sampling in ORDERS:
        order = Packed((47, 50, 31, 60) * 40, window_shards=16, planned_draws=9000).order(sampling)
        draws = drawn(order, 0, 20_000) + drawn(order, 2**33 + 5, 1000)
        found[sampling] = hashlib.sha256(np.array(draws, "<i4").tobytes()).hexdigest()
    return found


def test_long_runs_of_draws_never_change_between_versions() -> None:
    assert digests() == FROZEN_SHA256


@pytest.mark.slow
def test_another_process_has_the_same_plan() -> None:
    script = (
        "import json; from tests.stream.test_plan_properties import digests; "
        "print(json.dumps(digests()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == digests()


def listed_stream(
    packed: Packed,
    sampling: Sampling,
    batch_size: int,
    threads: int = 1,
    prefetch_batches: int = 3,
    draw: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> Stream:
    """A stream over a `ListedSplit`."""
    config = StreamConfig(
        threads=threads,
        prefetch_batches=prefetch_batches,
        sampling=sampling,
        window_shards=packed.window_shards,
    )
    return Stream(
        ListedSplit(packed.shard_sizes),  # type: ignore[arg-type]
        seed=packed.seed,
        domain=packed.domain,
        batch_size=batch_size,
        augmentations=[AugmentConfig()],
        config=config,
        rank=rank,
        num_ranks=num_ranks,
        draw=draw,
        planned_draws=packed.planned_draws,
    )


@pytest.mark.slow
@EVERY_ROW
@settings(max_examples=25, deadline=None)
@given(
    packed=packed_splits,
    rank_size=st.integers(1, 4),
    num_ranks=st.integers(1, 6),
    threads=st.integers(1, 4),
    prefetch_batches=st.integers(1, 5),
    first_batch=st.integers(0, 40),
)
def test_any_topology_shares_out_the_same_batches(
    sampling: Sampling,
    packed: Packed,
    rank_size: int,
    num_ranks: int,
    threads: int,
    prefetch_batches: int,
    first_batch: int,
) -> None:
    batch_size, batches = rank_size * num_ranks, 4
    draw = first_batch * batch_size
    shares = []
    for rank in range(num_ranks):
        stream = listed_stream(
            packed, sampling, batch_size, threads, prefetch_batches, draw, rank, num_ranks
        )
        shares.append([next(stream).keys for _ in range(batches)])
        assert stream.draw == draw + batches * batch_size
        stream.close()
    found = [int(key) for batch in zip(*shares, strict=True) for keys in batch for key in keys]
    assert found == drawn(packed.order(sampling), draw, batches * batch_size)


@pytest.mark.slow
@EVERY_ROW
@settings(max_examples=40, deadline=None)
@given(packed=packed_splits, batch_size=st.integers(1, 40), prefetch_batches=st.integers(1, 6))
def test_what_is_being_read_is_still_wanted(
    sampling: Sampling, packed: Packed, batch_size: int, prefetch_batches: int
) -> None:
    """Else the split lets go of a shard under a thread that waits for it."""
    stream = listed_stream(packed, sampling, batch_size, 2, prefetch_batches)
    for _ in range(12):
        next(stream)
    stream.close()
    assert stream.split.unwanted_reads == []  # type: ignore[attr-defined]


@EVERY_ROW
def test_a_streams_state_is_small(sampling: Sampling) -> None:
    packed = Packed((3, 3), seed=2**63 - 1, window_shards=10**6)
    stream = listed_stream(packed, sampling, batch_size=4096)
    stream.close()
    assert len(json.dumps(stream.state(2**53))) < 300
