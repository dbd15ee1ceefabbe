"""Several datasets drawn from as one: each has its share of every stretch and keeps its own order;
ranks, threads and restarts change nothing; rare classes are sampled over all."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.data.packed.mixture import Mixture
from adapt.errors import JobError
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.orders.mixture import BLOCK_DRAWS, MixtureOrder
from adapt.stream.orders.order import Drawing, Order
from adapt.stream.orders.rare_classes import RareClassOrder
from adapt.stream.stream import Stream
from tests.stream.listed import ListedSplit, built

EVERY_ROW = pytest.mark.parametrize("sampling", ORDERS)
FROZEN = {
    "windows": [11, 3, 7, 12, 4, 10, 15, 2, 8, 14, 0, 13, 9, 1, 5, 13, 2, 15],
    "papers": [13, 0, 8, 15, 4, 15, 13, 3, 6, 14, 0, 9, 11, 4, 7, 10, 1, 12],
    "rare_classes": [14, 11, 11, 2, 11, 11, 2, 2, 7, 11, 2, 11, 7, 14, 7, 2, 11, 11],
}

weights = st.lists(st.floats(0.01, 100), min_size=2, max_size=5).map(tuple)
starts = st.integers(0, 5000) | st.integers(2**31, 2**31 + 5000)


def mixture(sizes: tuple[tuple[int, ...], ...], weights: tuple[float, ...]) -> Mixture:
    return Mixture([ListedSplit(one) for one in sizes], weights)  # type: ignore[misc]


def order_of(sampling: Sampling, split: Mixture, domain: int = 0, planned_draws: int = 40) -> Order:
    drawing = Drawing(split, 1234, domain, planned_draws)
    return ORDERS[sampling].build(drawing, StreamConfig(sampling=sampling, window_shards=2))


THREE = mixture(((3, 2), (4,), (1, 1, 5)), (2, 1, 3))


@pytest.mark.parametrize("sampling", ["windows", "papers"])
@settings(max_examples=25, deadline=None)
@given(weights, starts, st.integers(1, 200))
def test_every_stretch_has_its_shares(
    sampling: Sampling, weights: tuple[float, ...], start: int, count: int
) -> None:
    split = mixture(((2, 3),) * len(weights), weights)
    order = order_of(sampling, split)
    assert isinstance(order, MixtureOrder)
    parts = [split.part_of(order.sample(draw)) for draw in range(start, start + count)]
    found = np.bincount(parts, minlength=len(weights))
    assert np.abs(found - count * np.array(split.shares)).max() <= len(weights)
    taken = order.draws_before(start + count) - order.draws_before(start)
    assert found.tolist() == taken.tolist() and order.draws_before(start).sum() == start


def test_two_to_one_is_two_to_one_in_every_batch_of_three() -> None:
    order = order_of("windows", mixture(((5,), (5,)), (2, 1)))
    parts = [order.sample(draw) // 5 for draw in range(3 * 2000)]
    assert parts == [0, 1, 0] * 2000, "blocks end between these batches: 1024 is no multiple of 3"


@pytest.mark.parametrize("sampling", ["windows", "papers"])
def test_a_part_keeps_the_order_that_it_has_alone(sampling: Sampling) -> None:
    order = order_of(sampling, THREE)
    draws = range(3 * BLOCK_DRAWS)
    samples = [order.sample(draw) for draw in draws]
    first = [sample for sample in samples if THREE.part_of(sample) == 0]
    planned = 14 if sampling == "papers" else 1  # ceil(40 / 3) of the domain's
    alone = built(sampling, ListedSplit((3, 2)), 1234, 0, planned, 2)
    assert first == [alone.sample(draw) for draw in range(len(first))]
    second = [sample - 5 for sample in samples if THREE.part_of(sample) == 1]
    other = built(sampling, ListedSplit((4,)), 1234, 2, 7, 2)
    assert second == [other.sample(draw) for draw in range(len(second))]


@EVERY_ROW
def test_draws_stay_those_of_the_first_version(sampling: Sampling) -> None:
    order = order_of(sampling, THREE, domain=1)
    assert [order.sample(draw) for draw in range(18)] == FROZEN[sampling]


@EVERY_ROW
def test_one_dataset_alone_is_no_mixture(sampling: Sampling) -> None:
    split = ListedSplit((3, 2, 4))
    alone = built(sampling, split, 1234, 0, 40, 2)
    assert not isinstance(alone, MixtureOrder)
    assert Drawing(split, 1234, 1, 40).parts() == [Drawing(split, 1234, 1, 40)]  # type: ignore[arg-type]


def stream(
    sampling: Sampling, split: Mixture, batch: int, draw: int, rank: int, ranks: int
) -> Stream:
    return Stream(
        split,
        seed=7,
        domain=0,
        batch_size=batch,
        augmentations=[AugmentConfig()] * len(split.parts),
        config=StreamConfig(threads=2, sampling=sampling, window_shards=2),
        rank=rank,
        num_ranks=ranks,
        draw=draw,
        planned_draws=60,
    )


def keys(one: Stream, batches: int) -> list[tuple[str, ...]]:
    found = [next(one).keys for _ in range(batches)]
    one.close()
    return found


@pytest.mark.slow
@EVERY_ROW
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 50), st.integers(1, 3))
def test_ranks_and_restarts_change_nothing(sampling: Sampling, done: int, ranks: int) -> None:
    split = mixture(((3, 2), (4,), (1, 1, 5)), (2, 1, 3))
    whole = keys(stream(sampling, split, 6, 0, 0, 1), done + 4)
    shared = [keys(stream(sampling, split, 6, 6 * done, rank, ranks), 4) for rank in range(ranks)]
    assert [sum(parts, ()) for parts in zip(*shared, strict=True)] == whole[done:]


@pytest.mark.slow
@EVERY_ROW
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=8).map(tuple), min_size=2, max_size=4)
)
def test_what_is_being_read_is_still_wanted(
    sampling: Sampling, sizes: list[tuple[int, ...]]
) -> None:
    split = mixture(tuple(sizes), tuple(range(1, len(sizes) + 1)))
    keys(stream(sampling, split, 5, 0, 0, 1), 40)
    assert [part.unwanted_reads for part in split.parts] == [[]] * len(sizes)  # type: ignore[attr-defined]


@EVERY_ROW
def test_the_state_is_small_and_tells_shares_and_parts_apart(sampling: Sampling) -> None:
    ids = set()
    for shares in ((1.0, 1.0), (1.0, 2.0), (1.0, 1.0, 1.0)):
        one = stream(sampling, mixture(((2,),) * len(shares), shares), 4096, 0, 0, 1)
        one.close()
        ids.add(one.state(0)["dataset_id"])
        assert len(json.dumps(one.state(2**53))) < 300
    assert len(ids) == 3


class Counted(ListedSplit):
    """A split whose labels are counted so."""

    def __init__(self, pixels: list[list[int]]) -> None:
        super().__init__((len(pixels),))
        self.pixels = np.array(pixels, np.int64)

    def label_pixels(self, num_classes: int) -> np.ndarray:
        return np.pad(self.pixels, ((0, 0), (0, num_classes - self.pixels.shape[1])))


LARGE = Counted([[8000, 2000, 0]] * 6 + [[9000, 500, 500]] * 4)
SMALL = Counted([[4000, 0, 4000], [6000, 0, 0]])


def rare(min_pixels: int = 1000, *parts: Counted) -> Order:
    config = StreamConfig(
        sampling="rare_classes", rare_class_temperature=1, rare_class_min_pixels=min_pixels
    )
    split = Mixture(parts or (LARGE, SMALL), (3, 1))  # type: ignore[arg-type]
    return RareClassOrder.build(Drawing(split, 5, 0), config)


def test_rare_classes_are_those_of_all_datasets_by_weight() -> None:
    order = rare()
    assert isinstance(order, RareClassOrder)
    large, small = np.array([84, 14, 2]) / 100, np.array([10, 0, 4]) / 14
    frequencies = 0.75 * large + 0.25 * small
    expected = np.exp(1 - frequencies)
    assert order.probabilities[:3] == pytest.approx(expected / expected.sum())
    assert order.probabilities[3] == 0, "shown by no dataset"


def test_a_class_is_drawn_from_the_datasets_that_show_it_by_weight() -> None:
    order, drawn = rare(), np.zeros((3, 12))
    for draw in range(20_000):
        train_id = order.wanted_class(draw)
        assert train_id is not None
        drawn[train_id, order.sample(draw)] += 1
    shares = drawn / drawn.sum(axis=1, keepdims=True)
    assert shares[0, :10].sum() == pytest.approx(0.75, abs=0.03)
    assert shares[0, :10] == pytest.approx(0.075, abs=0.015), "all samples of a dataset alike"
    assert shares[1, :6].sum() == 1 and shares[2, 10] == 1, "one dataset alone shows it"


def test_a_dataset_that_would_never_be_drawn_is_named() -> None:
    one, other = Counted([[8000]]), Counted([[900]])
    other.uri = "file:///other/train"
    with pytest.raises(JobError, match=r"less than 900, the most .* of file:///other/train shows"):
        rare(1000, one, other)


def test_pixels_of_a_mixture_count_by_share() -> None:
    split = Mixture((LARGE, SMALL), (3, 1))  # type: ignore[arg-type]
    pixels = split.label_pixels(3)
    assert pixels.shape == (12, 3)
    of_parts = pixels[:10].sum() / 10 / 10_000, pixels[10:].sum() / 2 / 7000
    assert of_parts == pytest.approx((0.75 * 12 / 10, 0.25 * 12 / 2))
