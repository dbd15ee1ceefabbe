"""The choice of images to label, by hand and as properties."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt.errors import JobError
from adapt.suggest.choose import at_random, choice, farthest_first, image_weights
from adapt.suggest.pool import standard


def directions(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_the_first_weighs_most_and_the_next_is_far_from_it() -> None:
    features = directions(0, 5, 90, 180)
    weights = torch.tensor([1.0, 1.1, 1, 1])
    assert farthest_first(features, weights, 3, 0, []) == [1, 3, 2]


def test_a_weight_counts_as_much_as_a_distance() -> None:
    """From 0 degrees, 90 is 1 away and 180 is 2: three times the weight turns the order."""
    features = directions(0, 90, 180)
    assert farthest_first(features, torch.tensor([9.0, 1, 1]), 2, 0, []) == [0, 2]
    assert farthest_first(features, torch.tensor([9.0, 3, 1]), 2, 0, []) == [0, 1]


def test_what_is_labelled_already_repels_and_is_not_given_again() -> None:
    features = directions(0, 3, 90, 180)
    even = torch.ones(4)
    assert farthest_first(features, even, 4, 0, [0]) == [3, 2, 1]
    assert sorted(at_random(features, even, 9, 1, [0])) == [1, 2, 3]


def test_rare_classes_and_unsure_images_weigh_more() -> None:
    shares = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0.6, 0.4]])
    alike = image_weights(torch.full((4,), 0.5), shares)
    assert alike[3] > alike[0] == alike[1]
    unsure = image_weights(torch.tensor([0.2, 0.4, 0.2, 0.2]), shares)
    assert unsure[1] == pytest.approx(2 * unsure[0])
    rarity = torch.tensor([0.9**-0.5] * 3 + [0.6 * 0.9**-0.5 + 0.4 * 0.1**-0.5])
    assert alike.tolist() == pytest.approx((rarity / rarity.mean()).tolist())


def test_random_follows_its_seed() -> None:
    features, even = torch.rand(50, 2), torch.ones(50)
    assert at_random(features, even, 5, 3, []) == at_random(features, even, 5, 3, [])
    assert at_random(features, even, 5, 3, []) != at_random(features, even, 5, 4, [])


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
def test_every_choice_gives_as_many_different_images_as_there_are(
    images: int, count: int, seed: int
) -> None:
    features = torch.rand(images, 3, generator=torch.Generator().manual_seed(seed))
    for by in ("score", "random"):
        found = choice(by)(features, torch.ones(images), count, seed, [])
        assert len(found) == len(set(found)) == min(count, images)


def test_the_traversal_covers_clusters_that_chance_misses() -> None:
    """Nine images of one kind and one of each of three others."""
    features = directions(*[0.1 * n for n in range(9)], 90, 180, 270)
    assert {9, 10, 11} <= set(farthest_first(features, torch.ones(12), 4, 0, []))


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(JobError, match="--by: expected a way to choose, got 'scores'; did you mea"):
        choice("scores")


def test_standard_features() -> None:
    found = standard(torch.tensor([[1.0, 7], [3, 7]]))
    assert found.tolist() == [[-1, 0], [1, 0]]
