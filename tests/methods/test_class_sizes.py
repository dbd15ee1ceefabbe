"""Sizes of classes, and the nearest predictions that obey them: optimality, bounds, gradients."""

import pytest
import torch
from torch import Tensor

from adapt.methods.class_sizes import ClassSizes, class_sizes, nearest_distribution, size_loss

INF = float("inf")


def _probabilities(seed: int, classes: int = 5, pixels: int = 40, images: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, pixels, dtype=torch.float64, generator=random)
    return logits.softmax(dim=1)


def _bounds(seed: int, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Some classes must grow, some shrink, the last is free; all can be had together."""
    mean = probabilities.mean(dim=2)
    lower, upper = torch.zeros_like(mean), torch.full_like(mean, INF)
    lower[:, seed % 4] = mean[:, seed % 4] * 1.4
    upper[:, (seed + 1) % 4] = mean[:, (seed + 1) % 4] * 0.5
    lower[:, (seed + 2) % 4] = mean[:, (seed + 2) % 4] * 0.7  # holds already
    return lower, torch.maximum(upper, lower)


def test_sizes_are_taken_over_images_that_hold_the_class() -> None:
    shares = torch.linspace(0.1, 0.9, 9)
    pixels = torch.stack([1000 * shares, 1000 * (1 - shares), torch.zeros(9)], dim=1).round().long()
    pixels = torch.cat([pixels, torch.tensor([[0, 500, 0], [0, 0, 0]])])
    sizes = class_sizes(pixels)
    assert sizes.delta[0] == pytest.approx(0.5)
    assert sizes.alpha[0] == pytest.approx(0.18) and sizes.gamma[0] == pytest.approx(0.82)
    assert sizes.delta[1] == pytest.approx((4.5 + 1.0) / 10)
    assert sizes.delta[2].isnan() and sizes.alpha[2].isnan()


def test_the_upper_size_is_no_smaller_than_the_mean() -> None:
    pixels = torch.tensor([[1, 999]] * 19 + [[999, 1]])
    sizes = class_sizes(pixels)
    assert sizes.gamma[0] == sizes.delta[0] > 0.05


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_distribution_is_optimal(seed: int) -> None:
    """Karush, Kuhn and Tucker: bounds hold, q = p * exp(tilt) normalised, tilt of active bounds
    alone and of the right sign."""
    probabilities = _probabilities(seed)
    lower, upper = _bounds(seed, probabilities)
    nearest = nearest_distribution(probabilities, lower, upper, slack=50.0)
    mean = nearest.mean(dim=2)
    torch.testing.assert_close(nearest.sum(dim=1), torch.ones(2, 40, dtype=torch.float64))
    assert (mean > lower - 1e-6).all() and (mean < upper + 1e-6).all()
    tilt = torch.log(nearest / probabilities)
    tilt = tilt - tilt[:, -1:]  # relative to the free class
    assert (tilt - tilt[:, :, :1]).abs().max() < 1e-9  # one number an image and class
    tilt = tilt[:, :, 0]
    assert (mean[tilt > 1e-6] - lower[tilt > 1e-6]).abs().max() < 1e-6
    assert (mean[tilt < -1e-6] - upper[tilt < -1e-6]).abs().max() < 1e-6
    assert (tilt > 1e-3).any() and (tilt < -1e-3).any()


def test_the_nearest_distribution_is_that_of_projected_gradients() -> None:
    probabilities = _probabilities(7, images=1)
    lower, upper = _bounds(7, probabilities)
    up, down = torch.zeros_like(lower), torch.zeros_like(lower)
    for _ in range(20_000):
        tilted = probabilities * torch.exp(up - down)[:, :, None]
        mean = (tilted / tilted.sum(dim=1, keepdim=True)).mean(dim=2)
        up = (up + lower - mean).clamp(min=0)
        down = torch.where(upper < INF, down + mean - upper.clamp(max=9), 0.0).clamp(min=0)
    expected = tilted / tilted.sum(dim=1, keepdim=True)
    found = nearest_distribution(probabilities, lower, upper, slack=50.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_slack_limits_how_hard_a_lower_bound_pulls() -> None:
    probabilities = _probabilities(1)
    lower = torch.zeros(2, 5, dtype=torch.float64)
    lower[:, 0] = 0.95
    upper = torch.full_like(lower, INF)
    nearest = nearest_distribution(probabilities, lower, upper, slack=0.5)
    tilt = torch.log(nearest / probabilities)
    torch.testing.assert_close(tilt[:, 0] - tilt[:, 1], torch.full((2, 40), 0.5).double())
    assert (nearest[:, 0].mean(dim=1) < 0.95).all()


def _sizes(delta: list[float], gamma: list[float], alpha: list[float]) -> ClassSizes:
    return ClassSizes(torch.tensor(alpha), torch.tensor(delta), torch.tensor(gamma))


def _gradient(logits: Tensor, sizes: ClassSizes) -> Tensor:
    logits = logits.clone().requires_grad_()
    size_loss(logits.softmax(dim=1), sizes, slack=50.0).backward()
    assert logits.grad is not None
    return logits.grad * logits[0, 0].numel()


def test_sizes_that_hold_pull_at_nothing() -> None:
    logits = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    gradient = _gradient(logits, _sizes([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.01] * 3))
    assert gradient.abs().max() < 1e-6


def test_the_gradient_is_that_of_the_cross_entropy_to_the_nearest_distribution() -> None:
    logits = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    probabilities = logits.softmax(dim=1)
    sizes = _sizes([0.6, 0.0, 0.0], [1.0, 1.0, 0.1], [0.05] * 3)
    bounds = torch.tensor([[0.6, 0.0, 0.0]]).double(), torch.tensor([[1.0, 1.0, 0.1]]).double()
    nearest = nearest_distribution(probabilities.flatten(2), *bounds, slack=50.0)
    expected = probabilities - nearest.view_as(probabilities)
    torch.testing.assert_close(_gradient(logits, sizes), expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 0.05


def test_large_classes_pull_a_tenth() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    small, large = (_sizes([0.8, 0.0], [1.0, 1.0], [alpha, 0.05]) for alpha in (0.05, 0.5))
    pulls = [_gradient(logits, sizes)[0, 0].mean().item() for sizes in (small, large)]
    assert pulls[0] < 0 and abs(pulls[1]) < abs(pulls[0])


def test_absent_classes_are_left_alone() -> None:
    logits = torch.zeros(1, 3, 10, 10)
    logits[:, 0] = 5.0  # everything is class 0; class 1 is nowhere, class 2 in no source image
    nan = float("nan")
    sizes = _sizes([0.1, 0.5, nan], [1.0, 0.9, nan], [0.1, 0.3, nan])
    assert _gradient(logits, sizes).abs().max() < 1e-6
