"""The plan: every sample once an epoch, the same for everybody, spread by windows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.data.order import AUGMENTATION, ORDER, Order, philox

FROZEN = [5, 6, 4, 0, 1, 2, 3, 8, 7, 5, 0, 6, 3, 2, 1, 4, 8, 7]

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=9).map(tuple)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 2**32), st.integers(0, 1), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_draws_every_sample_once(
    shard_sizes: tuple[int, ...], seed: int, stream: int, window: int, epoch: int
) -> None:
    order = Order(shard_sizes, seed, stream, window)
    draws = range(epoch * order.num_samples, (epoch + 1) * order.num_samples)
    assert sorted(map(order.sample, draws)) == list(range(order.num_samples))


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_ranks_together_draw_what_one_rank_draws(
    shard_sizes: tuple[int, ...], rank_size: int, num_ranks: int
) -> None:
    order, batch = Order(shard_sizes, 3, 0), rank_size * num_ranks
    alone = [order.sample(draw) for draw in range(5 * batch)]
    together = [
        order.sample(step * batch + rank * rank_size + slot)
        for step in range(5)
        for rank in range(num_ranks)
        for slot in range(rank_size)
    ]
    assert together == alone


def test_epochs_seeds_and_streams_differ() -> None:
    def draws(seed: int, stream: int, epoch: int) -> list[int]:
        order = Order((10, 10), seed, stream)
        return [order.sample(draw) for draw in range(20 * epoch, 20 * epoch + 20)]

    assert len({tuple(draws(*key)) for key in [(1, 0, 0), (1, 0, 1), (2, 0, 0), (1, 1, 0)]}) == 4


def test_the_order_never_changes_between_versions() -> None:
    order = Order((3, 4, 2), seed=1234, stream=0, window_shards=2)
    assert [order.sample(draw) for draw in range(18)] == FROZEN


def test_a_window_bounds_how_many_shards_are_open_at_once() -> None:
    order = Order((5,) * 8, seed=5, stream=0, window_shards=2)
    for window in range(4):
        shards = {order.sample(draw) // 5 for draw in range(10 * window, 10 * window + 10)}
        assert len(shards) == 2


@given(st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_upcoming_shards_name_the_next_draws_shards_first(draw: int) -> None:
    order = Order((5,) * 8, seed=5, stream=0, window_shards=2)
    upcoming = order.upcoming_shards(draw)
    assert order.sample(draw) // 5 in upcoming[:2]
    rest_of_window = range(draw, draw + 10 - draw % 10)
    assert {order.sample(d) // 5 for d in rest_of_window} <= set(upcoming[:2])


def test_purposes_share_no_random_words() -> None:
    words = [set(philox(7, 0, purpose, 3).random_raw(1000)) for purpose in (ORDER, AUGMENTATION)]
    assert not words[0] & words[1]
