"""Losses against golden values and gradients of the papers' programs, and at their edges."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt.batch import IGNORED
from adapt.losses import (
    adversarial_least_squares,
    adversarial_vanilla,
    bootstrapped_cross_entropy,
    class_prior_loss,
    class_probabilities,
    confusion_loss,
    cross_entropy,
    entropy_loss,
    weighted_self_information,
)

torch.set_num_threads(1)
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCE = {"f32": 2e-6, "f64": 1e-12}


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, np.ndarray]:
    with np.load(shared_dir / "golden" / "losses.npz") as file:
        return dict(file)


def _leaf(values: np.ndarray, precision: str) -> Tensor:
    return torch.tensor(values, dtype=DTYPES[precision], requires_grad=True)


def _assert_close(found: Tensor | None, expected: np.ndarray, precision: str) -> None:
    assert found is not None
    tolerance = TOLERANCE[precision]
    expected_tensor = torch.as_tensor(expected).to(found.dtype)
    torch.testing.assert_close(found, expected_tensor, rtol=tolerance, atol=tolerance * 0.1)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("program", ["adaptsegnet_CrossEntropy2d", "advent_loss_calc"])
def test_cross_entropy_is_the_papers(
    golden: dict[str, np.ndarray], program: str, precision: str
) -> None:
    logits = _leaf(golden["logits"], precision)
    loss = cross_entropy(logits, torch.tensor(golden["label"]).long())
    loss.backward()
    _assert_close(loss.detach(), golden[f"cross_entropy/{program}/{precision}/value"], precision)
    expected = golden[f"cross_entropy/{program}/{precision}/grad_logits"]
    _assert_close(logits.grad, expected, precision)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("domain", [0, 1])
@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        ("bce_adaptsegnet", adversarial_vanilla),
        ("bce_advent", adversarial_vanilla),
        ("ls_adaptsegnet", adversarial_least_squares),
    ],
)
def test_adversarial_losses_are_the_papers(
    golden: dict[str, np.ndarray],
    name: str,
    criterion: Callable[[Tensor, int], Tensor],
    domain: int,
    precision: str,
) -> None:
    logits = _leaf(golden["d_out"], precision)
    loss = criterion(logits, domain)
    loss.backward()
    _assert_close(loss.detach(), golden[f"{name}/label{domain}/{precision}/value"], precision)
    _assert_close(logits.grad, golden[f"{name}/label{domain}/{precision}/grad"], precision)


@pytest.mark.parametrize("precision", DTYPES)
def test_weighted_self_information_is_the_papers(
    golden: dict[str, np.ndarray], precision: str
) -> None:
    logits = _leaf(golden["logits"], precision)
    information = weighted_self_information(class_probabilities(logits))
    information.backward(torch.tensor(golden["prob_2_entropy/cotangent"]).to(logits.dtype))
    _assert_close(information.detach(), golden[f"prob_2_entropy/{precision}/value"], precision)
    _assert_close(logits.grad, golden[f"prob_2_entropy/{precision}/grad_logits"], precision)


@pytest.mark.parametrize("precision", DTYPES)
def test_entropy_loss_is_the_papers(golden: dict[str, np.ndarray], precision: str) -> None:
    logits = _leaf(golden["logits"], precision)
    loss = entropy_loss(class_probabilities(logits))
    loss.backward()
    _assert_close(loss.detach(), golden[f"entropy_loss/{precision}/value"], precision)
    _assert_close(logits.grad, golden[f"entropy_loss/{precision}/grad_logits"], precision)


def test_cross_entropy_of_ignored_labels_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(1, 5, 4, 6, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 6), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def _labelled(images: int = 3, classes: int = 7) -> tuple[Tensor, Tensor]:
    """Random logits, and labels of which 21, 14 and 7 of 35 an image are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, classes, 5, 7, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (images, 5, 7), generator=generator)
    for image in range(images):
        labels[image, : images - image] = IGNORED
    return logits.requires_grad_(), labels


def _losses_of_pixels(logits: Tensor, labels: Tensor) -> list[np.ndarray]:
    """Of each image's counted pixels, hardest first: -log of the softmax in their class."""
    of_images = []
    for scores, classes in zip(logits.detach().numpy(), labels.numpy(), strict=True):
        counted = classes != IGNORED
        scores = scores[:, counted]
        chosen = np.take_along_axis(scores, classes[counted][None], axis=0)[0]
        of_images.append(np.sort(np.log(np.exp(scores).sum(axis=0)) - chosen)[::-1])
    return of_images


@pytest.mark.parametrize("hardest_pixels", [1, 4, 14])
def test_bootstrapped_cross_entropy_is_the_mean_of_each_images_hardest(
    hardest_pixels: int,
) -> None:
    logits, labels = _labelled()
    hardest = [losses[:hardest_pixels] for losses in _losses_of_pixels(logits, labels)]
    loss = bootstrapped_cross_entropy(logits, labels, hardest_pixels)
    assert loss.item() == pytest.approx(np.mean(hardest), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    pulled = gradient.any(dim=1)
    assert pulled.sum(dim=(1, 2)).tolist() == [hardest_pixels] * 3
    assert not pulled[labels == IGNORED].any()


def test_bootstrapped_cross_entropy_never_takes_ignored_pixels() -> None:
    logits, labels = _labelled()
    ignored = (labels == IGNORED)[:, None]
    extreme = torch.where(ignored, 1e4 * torch.randn_like(logits), logits.detach())
    found = bootstrapped_cross_entropy(extreme, labels, 4)
    assert torch.equal(found, bootstrapped_cross_entropy(logits.detach(), labels, 4))


@pytest.mark.parametrize("hardest_pixels", [28, 35, 1_000_000])
def test_bootstrapped_cross_entropy_of_all_pixels_is_the_plain_one(hardest_pixels: int) -> None:
    """Also where images have different numbers of counted pixels: each pixel has one weight."""
    logits, labels = _labelled()
    plain = cross_entropy(logits, labels)
    torch.testing.assert_close(bootstrapped_cross_entropy(logits, labels, hardest_pixels), plain)


def test_bootstrapped_cross_entropy_takes_what_there_is_of_an_image_with_few_labels() -> None:
    logits, labels = _labelled()
    labels[0].view(-1)[:-2] = IGNORED
    hardest = [losses[:6] for losses in _losses_of_pixels(logits, labels)]
    assert [len(losses) for losses in hardest] == [2, 6, 6]
    found = bootstrapped_cross_entropy(logits, labels, 6).item()
    assert found == pytest.approx(np.concatenate(hardest).mean(), rel=1e-12)


def test_bootstrapped_cross_entropy_of_ignored_labels_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    loss = bootstrapped_cross_entropy(logits, torch.full((2, 4, 6), IGNORED), 7)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_entropy_spans_zero_to_one() -> None:
    certain = torch.zeros(1, 19, 2, 2)
    certain[:, 3] = 1
    assert entropy_loss(certain).item() == 0
    assert entropy_loss(torch.full((1, 19, 2, 2), 1 / 19)).item() == pytest.approx(1, abs=1e-6)


def test_ranking_takes_the_most_uncertain_pixels_of_each_image() -> None:
    probabilities = class_probabilities(torch.randn(2, 5, 4, 5, dtype=torch.float64))
    by_pixel = weighted_self_information(probabilities).sum(dim=1).flatten(1)
    expected = torch.stack([image.sort(descending=True).values[:6].mean() for image in by_pixel])
    torch.testing.assert_close(entropy_loss(probabilities, ranking=0.3), expected.mean())
    torch.testing.assert_close(entropy_loss(probabilities, 1.0), entropy_loss(probabilities))
    torch.testing.assert_close(entropy_loss(probabilities, 1e-9), by_pixel.amax(dim=1).mean())


def test_class_prior_by_hand() -> None:
    probabilities = torch.zeros(2, 3, 1, 2)
    probabilities[0, 0], probabilities[1, 1] = 1, 1  # an image of class 0, one of class 1
    ratios = torch.tensor([0.5, 0.3, 0.2])
    first, second = 0.15 + 0.1, 0.25 + 0.1
    found = class_prior_loss(probabilities, ratios, mu=0.5)
    torch.testing.assert_close(found, torch.tensor((first + second) / 2))


def test_class_prior_pulls_up_what_is_missing_alone() -> None:
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    ratios = torch.tensor([0.9, 0.1, 0.0])
    class_prior_loss(class_probabilities(logits), ratios, mu=0.5).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] < 0).all() and (logits.grad[:, 1:] > 0).all()
    fulfilled = class_prior_loss(class_probabilities(logits), ratios, mu=0.3)
    assert fulfilled.item() == 0


def test_confusion_is_least_where_nothing_is_known() -> None:
    undecided = confusion_loss(torch.zeros(1, 1, 2, 2))
    assert undecided.item() == pytest.approx(np.log(2))
    for sure in (-2.0, 2.0):
        assert confusion_loss(torch.full((1, 1, 2, 2), sure)) > undecided


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_on_short_probabilities_are_float32(dtype: torch.dtype) -> None:
    probabilities = torch.full((1, 4, 2, 2), 0.25, dtype=dtype)
    prior = class_prior_loss(probabilities, torch.full((4,), 0.25), 1.0)
    assert (prior.dtype, prior.item()) == (torch.float32, 0.0)
    assert entropy_loss(probabilities, 0.5).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_of_short_floats_are_finite_float32(dtype: torch.dtype, autocast: bool) -> None:
    logits = (torch.randn(2, 19, 8, 8) * 12).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = entropy_loss(class_probabilities(logits))
        expected = entropy_loss(class_probabilities(logits.detach().float()))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss.detach(), expected)
    assert logits.grad is not None and logits.grad.isfinite().all()
