"""The plans: every sample once an epoch, spread by windows, or the papers' multiset; the same for
every rank."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import JobError
from adapt.stream.config import StreamConfig
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.orders.order import LOOKAHEAD_DRAWS, Order
from adapt.stream.orders.papers import PapersOrder
from adapt.stream.orders.random_words import AUGMENTATION, ORDER, philox
from adapt.stream.orders.rare_classes import RareClassOrder
from adapt.stream.orders.windows import WindowOrder
from tests.stream.listed import PlainSplit, built

FROZEN = {
    "windows": [5, 6, 4, 0, 1, 2, 3, 8, 7, 5, 0, 6, 3, 2, 1, 4, 8, 7],
    "rare_classes": [5, 3, 7, 1, 1, 2, 1, 3, 2, 5, 4, 4, 0, 3, 1, 7, 6, 2],
    "papers": [5, 8, 4, 0, 7, 2, 3, 8, 3, 0, 6, 7, 1, 4, 2, 1, 5, 6],
}
SAMPLES = [3, 6, 8, 2, 0, 2, 1, 2, 2, 6, 3, 6, 1, 6, 1, 8, 8, 2]
CLASSES = [1, 2, 2, 2, 0, 2, 1, 0, 2, 2, 1, 2, 1, 2, 1, 2, 2, 2]
RARE_PIXELS = np.array(
    [
        [9000, 0, 10],
        [9000, 3001, 0],
        [5000, 0, 4000],
        [9000, 9000, 0],
        [9000, 0, 0],
        [100, 0, 0],
        [0, 0, 3500],
        [9000, 0, 0],
        [4000, 4000, 4000],
    ]
)
EVERY_ORDER = pytest.mark.parametrize("sampling", ORDERS)

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=9).map(tuple)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 2**32), st.integers(0, 1), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_draws_every_sample_once(
    shard_sizes: tuple[int, ...], seed: int, domain: int, window: int, epoch: int
) -> None:
    order = WindowOrder(shard_sizes, seed, domain, window)
    draws = range(epoch * order.num_samples, (epoch + 1) * order.num_samples)
    assert sorted(map(order.sample, draws)) == list(range(order.num_samples))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 2**32), st.integers(0, 1), st.integers(1, 60), st.integers(0, 2))
def test_the_papers_draw_every_sample_equally_often(
    shard_sizes: tuple[int, ...], seed: int, domain: int, planned: int, shuffle: int
) -> None:
    order = PapersOrder(shard_sizes, seed, domain, planned_draws=planned)
    repeats = math.ceil(planned / order.num_samples)
    length = repeats * order.num_samples
    draws = Counter(map(order.sample, range(shuffle * length, (shuffle + 1) * length)))
    assert draws == dict.fromkeys(range(order.num_samples), repeats)


def test_the_papers_draw_samples_again_before_others_were_seen() -> None:
    order = PapersOrder((24_966,), seed=1234, domain=0, planned_draws=250_000)
    drawn = np.array([order.sample(draw) for draw in range(274_626)])
    assert (np.bincount(drawn) == 11).all()
    unseen = 1 - len(np.unique(drawn[:24_966])) / 24_966
    assert unseen == pytest.approx((1 - 1 / 11) ** 11, abs=0.01)


def test_the_papers_order_knows_no_shards() -> None:
    one, three = (
        PapersOrder(sizes, seed=3, domain=0, planned_draws=50) for sizes in ((20,), (5, 8, 7))
    )
    assert [one.sample(draw) for draw in range(150)] == [three.sample(draw) for draw in range(150)]


@EVERY_ORDER
@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_ranks_together_draw_what_one_rank_draws(
    sampling: Sampling, shard_sizes: tuple[int, ...], rank_size: int, num_ranks: int
) -> None:
    order, batch = built(sampling, PlainSplit(shard_sizes), 3, 0), rank_size * num_ranks
    alone = [order.sample(draw) for draw in range(5 * batch)]
    together = [
        order.sample(step * batch + rank * rank_size + slot)
        for step in range(5)
        for rank in range(num_ranks)
        for slot in range(rank_size)
    ]
    assert together == alone


@EVERY_ORDER
def test_epochs_seeds_and_domains_differ(sampling: Sampling) -> None:
    def draws(seed: int, domain: int, epoch: int) -> list[int]:
        order = built(sampling, PlainSplit((10, 10)), seed, domain, planned_draws=20)
        return [order.sample(draw) for draw in range(20 * epoch, 20 * epoch + 20)]

    assert len({tuple(draws(*key)) for key in [(1, 0, 0), (1, 0, 1), (2, 0, 0), (1, 1, 0)]}) == 4


@pytest.mark.parametrize("sampling", ORDERS)
def test_the_order_never_changes_between_versions(sampling: Sampling) -> None:
    order = built(sampling, PlainSplit((3, 4, 2)), 1234, 0, planned_draws=12, window_shards=2)
    assert [order.sample(draw) for draw in range(18)] == FROZEN[sampling]


def test_every_row_is_a_value_of_the_setting() -> None:
    for sampling in ORDERS:
        assert StreamConfig.from_values({"sampling": sampling}, "stream").sampling == sampling
    with pytest.raises(JobError, match="windows, papers or rare_classes"):
        StreamConfig.from_values({"sampling": "random"}, "stream")


@EVERY_ORDER
def test_a_row_describes_itself(sampling: Sampling) -> None:
    assert ORDERS[sampling].__doc__ and ORDERS[sampling].__doc__ != Order.__doc__


def test_a_window_bounds_how_many_shards_are_open_at_once() -> None:
    order = WindowOrder((5,) * 8, seed=5, domain=0, window_shards=2)
    for window in range(4):
        shards = {order.sample(draw) // 5 for draw in range(10 * window, 10 * window + 10)}
        assert len(shards) == 2


@given(st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_upcoming_shards_name_the_next_draws_shards_first(draw: int) -> None:
    order = WindowOrder((5,) * 8, seed=5, domain=0, window_shards=2)
    upcoming = order.upcoming_shards(draw)
    assert order.sample(draw) // 5 in upcoming[:2]
    rest_of_window = range(draw, draw + 10 - draw % 10)
    assert {order.sample(d) // 5 for d in rest_of_window} <= set(upcoming[:2])


@given(st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_the_papers_upcoming_shards_are_those_of_the_next_draws_in_turn(draw: int) -> None:
    order = PapersOrder((3,) * 50, seed=5, domain=0, planned_draws=300)
    wanted = [order.sample(later) // 3 for later in range(draw, draw + LOOKAHEAD_DRAWS)]
    assert order.upcoming_shards(draw) == list(dict.fromkeys(wanted))


def test_purposes_share_no_random_words() -> None:
    words = [set(philox(7, 0, purpose, 3).random_raw(1000)) for purpose in (ORDER, AUGMENTATION)]
    assert not words[0] & words[1]


def test_rare_class_sampling_never_changes_between_versions() -> None:
    order = RareClassOrder((3, 4, 2), 1234, 0, label_pixels=RARE_PIXELS, temperature=0.3)
    assert [order.sample(draw) for draw in range(18)] == SAMPLES
    assert [order.wanted_class(draw) for draw in range(18)] == CLASSES


def test_rare_classes_are_drawn_as_the_paper_says() -> None:
    order = RareClassOrder((9,), 5, 0, label_pixels=RARE_PIXELS, temperature=0.3)
    frequencies = RARE_PIXELS.sum(axis=0) / RARE_PIXELS.sum()
    softmax = np.exp((1 - frequencies) / 0.3)
    expected = softmax / softmax.sum()
    assert order.probabilities == pytest.approx(expected)
    drawn = Counter((order.wanted_class(draw), order.sample(draw)) for draw in range(20_000))
    for class_, share in enumerate(expected):
        members = np.flatnonzero(RARE_PIXELS[:, class_] > 3000)
        for sample in range(9):
            odds = share / len(members) if sample in members else 0
            assert drawn[class_, sample] / 20_000 == pytest.approx(odds, abs=0.012)


def test_a_class_that_no_sample_shows_enough_of_is_left_out() -> None:
    order = RareClassOrder((9,), 5, 0, label_pixels=RARE_PIXELS, min_pixels=8000)
    assert order.probabilities[2] == 0
    assert {order.wanted_class(draw) for draw in range(500)} == {1}  # the rarer of the two
