"""`loss` of the job spec: class weights, hardest pixels, by formula and on every architecture."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED
from adapt.check.memory import predicted_bytes
from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.losses import balanced_weights, cross_entropy, hardest_cross_entropy
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.models.pixel_loss import LossConfig
from adapt.spec.loading import parse_spec
from tests.conftest import tiny_values
from tests.networks import tiny_model

torch.set_num_threads(1)
WEIGHTS = torch.tensor([0.5, 0.0, 3.0, 1.0], dtype=torch.float64)


def _labelled() -> tuple[Tensor, Tensor]:
    """Three images of 35 pixels; the first has few labels."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 7, generator=random, dtype=torch.float64)
    labels = torch.randint(4, (3, 5, 7), generator=random)
    labels[0, 1:] = IGNORED
    labels[1, :, :2] = IGNORED
    return logits, labels


def test_weights_are_those_of_torch() -> None:
    logits, labels = _labelled()
    expected = F.cross_entropy(logits, labels, WEIGHTS, ignore_index=IGNORED)
    found = cross_entropy(logits, labels, WEIGHTS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_pixels_of_no_weight_alone_give_zero_with_zero_gradient() -> None:
    logits, labels = _labelled()
    logits.requires_grad_()
    nothing = torch.full_like(labels, 1)
    for loss in (cross_entropy, lambda *given: hardest_cross_entropy(given[0], given[1], 0.5)):
        value = loss(logits, torch.full_like(labels, IGNORED), WEIGHTS)
        assert value.item() == 0
    value = cross_entropy(logits, nothing, WEIGHTS)
    value.backward()
    assert value.item() == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
def test_the_hardest_of_each_image(share: float, weights: Tensor | None) -> None:
    logits, labels = _labelled()
    table = torch.ones(4).double() if weights is None else weights
    total, divisor = 0.0, 0.0
    for scores, classes in zip(logits, labels, strict=True):
        counted = classes != IGNORED
        losses = F.cross_entropy(scores[:, counted].T, classes[counted], reduction="none")
        of_pixels = table[classes[counted]]
        kept = math.ceil(share * int(counted.sum()) - 1e-9)
        total += np.sort((losses * of_pixels).numpy())[::-1][:kept].sum()
        divisor += kept / int(counted.sum()) * float(of_pixels.sum())
    found = hardest_cross_entropy(logits, labels, share, weights)
    assert found.item() == pytest.approx(total / divisor, rel=1e-12)


def test_all_pixels_are_the_plain_loss() -> None:
    logits, labels = _labelled()
    for weights in (None, WEIGHTS):
        expected = cross_entropy(logits, labels, weights)
        found = hardest_cross_entropy(logits, labels, 1.0, weights)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_balanced_classes_weigh_the_same() -> None:
    pixels = torch.tensor([[90, 0, 9, 1], [0, 0, 60, 0]])
    weights = balanced_weights(pixels)
    shares = weights * pixels.sum(dim=0)
    assert shares[[0, 2, 3]].tolist() == pytest.approx([160 / 3] * 3)
    assert weights[1] == 1
    assert balanced_weights(pixels * 0).tolist() == [1.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_head_of_every_architecture_obeys(architecture: str) -> None:
    """A class of weight 0 is as good as ignored; all pixels are the hardest of all."""
    segmenter = build_segmenter(tiny_model(architecture), 4).eval()
    labels = torch.randint(4, (1, 32, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        prediction = segmenter(torch.randn(1, 3, 32, 64))

    def losses(labels: Tensor, **values: Any) -> dict[str, float]:
        segmenter.set_loss(validate(LossConfig, values, "loss"))
        found = segmenter.segmentation_losses(prediction, labels)
        return {head: found[head][1].item() for head in segmenter.head_names}

    plain, few = losses(labels), labels.masked_fill(labels == 2, IGNORED)
    assert losses(labels, class_weights=[1, 1, 0, 1]) == pytest.approx(losses(few), rel=1e-5)
    assert losses(labels, hardest=1.0) == pytest.approx(plain, rel=1e-5)
    assert all(hard > plain[head] for head, hard in losses(labels, hardest=0.1).items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_weights": "median"}, "loss.class_weights: expected none, balanced or a list"),
        ({"class_weights": [1, 2, 3, -4]}, "loss.class_weights: expected none, balanced or a list"),
        ({"class_weights": [0, 0, 0, 0]}, "loss.class_weights: .* with one above 0"),
        ({"class_weights": [1, 2]}, "loss.class_weights: expected 4 numbers, .*got 2"),
        ({"hardest": 0}, "loss.hardest: expected a number > 0 and <= 1 or null, got 0"),
        ({"hardest": 25}, "loss.hardest: expected a number > 0 and <= 1 or null, got 25"),
        ({"ohem": 0.5}, "loss.ohem: unknown key"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_spec({**tiny_values("data", "runs"), "loss": values}, "tiny")


@pytest.mark.slow
def test_the_memory_of_a_step_counts_the_search_for_the_hardest() -> None:
    values = tiny_values("data", "runs")
    plain = predicted_bytes(parse_spec(values, "tiny"), 1)
    loss = {"class_weights": "balanced", "hardest": 0.5}
    hardest = predicted_bytes(parse_spec({**values, "loss": loss}, "tiny"), 1)
    assert hardest.activations >= plain.activations > 0
