"""Scores without labels: values by hand, and what must score best."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt.evaluation.label_free import LABEL_FREE_SCORES

EACH = pytest.mark.parametrize("name", LABEL_FREE_SCORES)


def score(name: str, *images: Tensor) -> float:
    row = LABEL_FREE_SCORES[name]
    counts = torch.zeros(row.size(images[0].shape[0]), dtype=torch.int64)
    for logits in images:
        counts += row.counts(logits)
    return row.value(counts)


def sure_of(classes: list[int], num_classes: int, certainty: float = 50.0) -> Tensor:
    """Logits (K, 1, W) of a network that is sure of one class at each pixel."""
    logits = torch.zeros(num_classes, 1, len(classes))
    for pixel, train_id in enumerate(classes):
        logits[train_id, 0, pixel] = certainty
    return logits


def test_information_maximisation_by_hand() -> None:
    half = torch.tensor([[[log(3.0), 0.0]], [[0.0, 0.0]]])  # 3/4 and 1/4, then 1/2 and 1/2
    conditional = (-0.75 * log(0.75) - 0.25 * log(0.25) + log(2)) / 2
    marginal = -(5 / 8) * log(5 / 8) - (3 / 8) * log(3 / 8)
    expected = (marginal - conditional) / log(2)
    assert score("information_maximisation", half) == pytest.approx(expected, abs=1e-6)


def test_information_maximisation_is_the_mean_over_pixels_of_all_images() -> None:
    random = torch.Generator().manual_seed(1)
    images = [3 * torch.randn(5, height, 7, generator=random) for height in (4, 9)]
    logits = np.concatenate([one.double().flatten(1).numpy() for one in images], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    mean = p.mean(axis=1)
    expected = (-(mean * np.log(mean)).sum() + (p * np.log(p)).sum(axis=0).mean()) / np.log(5)
    assert score("information_maximisation", *images) == pytest.approx(expected, abs=1e-6)


@EACH
def test_sure_and_varied_predictions_score_best_and_constant_ones_do_not(name: str) -> None:
    perfect = score(name, sure_of([0, 1, 2, 3], 4))
    constant = score(name, sure_of([1, 1, 1, 1], 4))
    uniform = score(name, torch.zeros(4, 1, 4))
    unsure = score(name, sure_of([0, 1, 2, 3], 4, certainty=1.0))
    assert perfect == pytest.approx(1, abs=1e-6)
    assert perfect > unsure > max(constant, uniform)
    assert constant == pytest.approx(0, abs=1e-6) == uniform


@EACH
def test_it_does_not_depend_on_the_order_and_shares_of_images(name: str) -> None:
    random = torch.Generator().manual_seed(2)
    images = [torch.randn(3, 5, 6, generator=random) for _ in range(5)]
    row = LABEL_FREE_SCORES[name]
    one = sum(row.counts(logits) for logits in images)
    ranks = [sum(row.counts(logits) for logits in images[rank::2]) for rank in (1, 0)]
    assert torch.equal(torch.as_tensor(one), torch.as_tensor(ranks[0] + ranks[1]))


@EACH
def test_without_pixels_it_is_no_number(name: str) -> None:
    row = LABEL_FREE_SCORES[name]
    assert np.isnan(row.value(torch.zeros(row.size(4), dtype=torch.int64)))
