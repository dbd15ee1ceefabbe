"""Scores without labels: values by hand, and what must score best."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt.evaluation.label_free import LABEL_FREE_SCORES

ALONE = [name for name, row in LABEL_FREE_SCORES.items() if row.beside is None]
"""Scores of one prediction; those of two are in test_consistency.py."""
EACH = pytest.mark.parametrize("name", ALONE)


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


def balanced(*images: Tensor) -> tuple[np.ndarray, float]:
    """In float64: the mean over predicted classes of their mean p p^T, and of their entropy."""
    logits = np.concatenate([one.double().flatten(1).numpy() for one in images], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    classes = [p[:, p.argmax(axis=0) == k] for k in sorted(set(p.argmax(axis=0)))]
    moments = np.mean([one @ one.T / one.shape[1] for one in classes], axis=0)
    entropy = np.mean([-(one * np.log(one)).sum(axis=0).mean() for one in classes])
    return moments, float(entropy)


def test_scores_in_which_each_predicted_class_weighs_alike() -> None:
    random = torch.Generator().manual_seed(4)
    images = [3 * torch.randn(5, height, 7, generator=random) for height in (4, 9)]
    images[0][2] += 6  # mostly one class
    moments, entropy = balanced(*images)
    nuclear = np.sqrt(np.linalg.eigvalsh(moments)).sum() / 5**0.5
    correlation = np.trace(moments) / np.linalg.norm(moments) / 5**0.5
    assert score("nuclear_norm", *images) == pytest.approx(nuclear, abs=1e-5)
    assert score("correlation", *images) == pytest.approx(correlation, abs=1e-5)
    assert score("mean_entropy", *images) == pytest.approx(entropy / np.log(5), abs=1e-5)


def test_the_nuclear_norm_is_that_of_the_matrix_of_predictions() -> None:
    """Of as many pixels of each class no weights are left."""
    random = torch.Generator().manual_seed(6)
    logits = torch.eye(3).repeat(1, 4).view(3, 1, 12) * 4
    logits += torch.randn(3, 1, 12, generator=random) * 0.3
    p = logits.double().softmax(dim=0).flatten(1).T.numpy()
    expected = np.linalg.svd(p, compute_uv=False).sum() / np.sqrt(12 * 3)
    assert score("nuclear_norm", logits) == pytest.approx(expected, abs=1e-5)


def test_soft_neighbourhood_density_by_a_transcription() -> None:
    random = torch.Generator().manual_seed(5)
    images = [2 * torch.randn(4, 5, size, generator=random) for size in (6, 3)]
    densities = []
    for logits in images:  # fewer than 32 pixels of a class: all of them
        p = logits.double().softmax(dim=0).flatten(1).T.numpy()
        rows = p / np.linalg.norm(p, axis=1, keepdims=True)
        alike = rows @ rows.T / 0.05
        np.fill_diagonal(alike, -np.inf)
        soft = np.exp(alike - alike.max(axis=1, keepdims=True))
        soft /= soft.sum(axis=1, keepdims=True)
        densities.append(-(soft * np.log(np.where(soft > 0, soft, 1))).sum(axis=1).mean())
    found = score("soft_neighbourhood_density", *images)
    assert found == pytest.approx(np.mean(densities) / log(4 * 32 - 1), abs=1e-5)


def test_soft_neighbourhood_density_gives_small_classes_the_weight_of_large_ones() -> None:
    """32 pixels of each at most: a thousand more of the first change nothing but their choice."""
    few, many = sure_of([0] * 32 + [1] * 32, 3), sure_of([0] * 1032 + [1] * 32, 3)
    expected = score("soft_neighbourhood_density", few)
    assert score("soft_neighbourhood_density", many) == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(log(31) / log(95), abs=1e-3)


def test_scores_of_products_read_a_grid_of_large_images() -> None:
    logits = sure_of([0, 1, 2, 3], 4).repeat(1, 600, 100)
    assert LABEL_FREE_SCORES["nuclear_norm"].counts(logits)[-4:].sum() <= 2**16
    assert score("nuclear_norm", logits) > 0.4


@EACH
def test_sure_and_varied_predictions_score_best_and_constant_ones_do_not(name: str) -> None:
    """Mean entropy does not see a collapse, SND takes networks that are sure for granted."""
    perfect = score(name, sure_of([0, 1, 2, 3] * 9, 4))
    constant = score(name, sure_of([1] * 36, 4))
    uniform = score(name, torch.zeros(4, 1, 36))
    unsure = score(name, sure_of([0, 1, 2, 3] * 9, 4, certainty=1.0))
    if name == "soft_neighbourhood_density":
        assert perfect * log(127) == pytest.approx(log(8), abs=1e-3)
        assert uniform * log(127) == pytest.approx(log(31)), "32 pixels of the first class"
        return
    if LABEL_FREE_SCORES[name].lower:
        assert perfect == constant == pytest.approx(0, abs=1e-6)
        assert perfect < unsure < uniform == pytest.approx(1)
        return
    assert perfect == pytest.approx(1, abs=1e-6)
    assert perfect > max(unsure, uniform, constant)


def test_what_collapses_or_is_undecided_has_no_information() -> None:
    for logits in (sure_of([1, 1, 1, 1], 4), torch.zeros(4, 1, 4)):
        assert score("information_maximisation", logits) == pytest.approx(0, abs=1e-6)


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
