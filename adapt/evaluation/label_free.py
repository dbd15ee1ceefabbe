"""Scores of predictions that need no labels, to choose a checkpoint where there are none.

A score is counted image by image in whole numbers, so that its value does not depend on how images
are shared out over ranks; `lower` says of each which values are better.
"""

from collections.abc import Callable, Sequence
from math import ceil, isnan, log
from typing import NamedTuple

import torch
from torch import Tensor

from adapt.evaluation.consistency import AVERAGE, MIRRORED, RECOLOURED, class_pairs, consistency
from adapt.models.segmenter import Segmenter

TEACHER_AGREEMENT, FLIP_CONSISTENCY = "teacher_agreement", "flip_consistency"
"""The scores that need a moving average beside the network, and predictions of an image alone."""

_FIXED = 2**20
"""Of a fixed-point number: sums of up to 4e12 pixels fit into 64 bits."""
_GRID, _DENSITY_GRID = 2**16, 2**14
"""Pixels of an image that scores with products of predictions read, at most about so many."""
_OF_A_CLASS, _TEMPERATURE = 32, 0.05
"""SND's pixels of each predicted class in an image, and its temperature (the paper's)."""
_STRIDE, _PRIME = 7919, 1_000_003


class LabelFreeScore(NamedTuple):
    """A row of `LABEL_FREE_SCORES`.

    `size`: number of classes -> N. `counts`: an image's logits (K, H, W), and those of the second
    prediction `beside` where one is named -> (N,) int64 on their device. `value`: the sum of all
    images' counts, on the CPU -> the score; NaN without pixels. `lower` values are better, else
    higher ones.
    """

    size: Callable[[int], int]
    counts: Callable[..., Tensor]
    value: Callable[[Tensor], float]
    beside: str | None = None
    lower: bool = False


def class_shares(logits: Tensor) -> Tensor:
    """(K, H, W) -> (K + 2,): summed probabilities of each class and summed entropy, both as
    fixed-point numbers, and pixels."""
    probabilities = logits.float().softmax(dim=0)
    summed = probabilities.sum(dim=(1, 2), dtype=torch.float64)
    entropy = torch.special.entr(probabilities).sum(dtype=torch.float64)
    fixed = (torch.cat([summed, entropy[None]]) * _FIXED).round().to(torch.int64)
    return torch.cat([fixed, fixed.new_tensor([logits[0].numel()])])


def information_maximisation(counts: Tensor) -> float:
    """H(mean p) - mean H(p), over the largest possible, ln K: (K + 2,) of `class_shares` -> [0, 1].

    High where the network is sure of each pixel and uses all classes; a constant answer has 0, a
    uniform one too. Shi and Sha, Information-Theoretical Learning of Discriminative Clusters for
    Unsupervised Domain Adaptation, ICML 2012. Pixels of large classes weigh most.
    """
    values = counts.double()
    pixels = values[-1].item()
    if not pixels:
        return float("nan")
    shares = values[:-2] / _FIXED / pixels
    marginal = torch.special.entr(shares).sum().item()
    conditional = values[-2].item() / _FIXED / pixels
    return (marginal - conditional) / log(len(shares))


def class_moments(logits: Tensor) -> Tensor:
    """(K, H, W) -> (K * K * K + 2 * K,): by predicted class the summed products of probabilities
    and the summed entropy, both as fixed-point numbers, and pixels; of a regular grid of pixels."""
    probabilities = _on_grid(logits, _GRID).double().softmax(dim=0)
    predicted = probabilities.argmax(dim=0)
    products, entropies, pixels = [], [], []
    for train_id in range(len(probabilities)):
        own = probabilities * (predicted == train_id)
        products.append((own @ own.T).flatten())
        entropies.append(torch.special.entr(own).sum())
        pixels.append((predicted == train_id).sum())
    fixed = (torch.cat([*products, torch.stack(entropies)]) * _FIXED).round().to(torch.int64)
    return torch.cat([fixed, torch.stack(pixels)])


def nuclear_norm(counts: Tensor) -> float:
    """Sum of the singular values of the predictions P (N, K), each predicted class weighing alike,
    over the largest possible, sqrt(K): high where predictions are sure and varied.

    Cui et al., Towards Discriminability and Diversity: Batch Nuclear-norm Maximization under Label
    Insufficient Situations, CVPR 2020. A network that is sure of one class has 1 / sqrt(K).
    """
    moments, entropy = _balanced(counts)
    if isnan(entropy):
        return entropy
    values = torch.linalg.eigvalsh(moments).clamp(min=0).sqrt()
    return values.sum().item() / len(moments) ** 0.5


def correlation(counts: Tensor) -> float:
    """trace(C) / |C| of the classes' correlation C = P^T P, each predicted class weighing alike,
    over the largest possible, sqrt(K): high where classes are separated and all are used.

    Corr-C of Tu et al., Assessing Model Out-of-Distribution Generalization with Softmax Prediction
    Correlation, 2023. A constant or undecided answer has 1 / sqrt(K).
    """
    moments, _ = _balanced(counts)
    return (moments.trace() / moments.norm()).item() / len(moments) ** 0.5


def mean_entropy(counts: Tensor) -> float:
    """Mean H(p) / ln K, each predicted class weighing alike: low where the network is sure.

    A network that is sure of one class everywhere has 0 too: it does not see a collapse.
    """
    _, entropy = _balanced(counts)
    return entropy / log(round(len(counts) ** (1 / 3)))


def neighbourhood(logits: Tensor) -> Tensor:
    """(K, H, W) -> (2,): soft neighbourhood density of an image as a fixed-point number, and 1.

    Of up to 32 pixels of each predicted class: rows of probabilities of unit length, their products
    over 0.05 without the diagonal, softmax, mean entropy of the rows over the largest possible,
    that of 32 pixels of each of the K classes.
    """
    probabilities = _on_grid(logits, _DENSITY_GRID).double().softmax(dim=0).T
    chosen, valid = _of_each_class(probabilities)
    rows = torch.nn.functional.normalize(probabilities[chosen], dim=1)
    alike = rows @ rows.T / _TEMPERATURE
    alone = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    alike = alike.masked_fill(alone | ~valid, -torch.inf)
    entropy = torch.special.entr(alike.softmax(dim=1)).sum(dim=1).nan_to_num()
    density = (entropy * valid).sum() / valid.sum().clamp(min=1)
    density = density / log(_OF_A_CLASS * len(logits) - 1)
    fixed = (density * _FIXED).round().to(torch.int64)
    return torch.stack([fixed, torch.ones_like(fixed)])


def soft_neighbourhood_density(counts: Tensor) -> float:
    """Mean of the images' density (2,): high where each pixel has many that are predicted alike.

    SND of Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via
    Soft Neighborhood Density, ICCV 2021, each predicted class weighing alike. It presumes a network
    that is sure: one that is undecided everywhere scores highest.
    """
    summed, images = counts.tolist()
    return float(summed) / _FIXED / images if images else float("nan")


def _on_grid(logits: Tensor, most: int) -> Tensor:
    """(K, H, W) -> (K, N): pixels of a regular grid, at most about `most`."""
    step = max(1, ceil((logits[0].numel() / most) ** 0.5))
    return logits[:, ::step, ::step].flatten(1)


def _of_each_class(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> indices (M,) of up to 32 pixels of each predicted class, and which of them are of
    it; the same pixels for the same predictions, without waiting for the device."""
    predicted, num_classes = probabilities.argmax(dim=1), probabilities.shape[1]
    places = torch.arange(len(predicted), device=predicted.device)
    shuffled = (places * _STRIDE) % _PRIME + 1  # no neighbours, whatever the image's shape
    own = predicted == torch.arange(num_classes, device=predicted.device)[:, None]
    most = min(_OF_A_CLASS, len(predicted))
    ranked, chosen = (own * shuffled).topk(most, dim=1)
    return chosen.flatten(), ranked.flatten() > 0


def _balanced(counts: Tensor) -> tuple[Tensor, float]:
    """The mean over predicted classes of their mean products (K, K) and mean entropy; zeros and NaN
    without pixels."""
    num_classes = round(len(counts) ** (1 / 3))
    values = counts.double()
    products = values[: num_classes**3].view(num_classes, num_classes, num_classes) / _FIXED
    entropies, pixels = values[num_classes**3 :].view(2, num_classes)
    there = pixels > 0
    share = pixels[there] * there.sum()
    moments = (products[there] / share[:, None, None]).sum(dim=0)
    entropy = (entropies[there] / _FIXED / share).sum().item()
    return moments, entropy if there.any() else float("nan")


def _pairs_size(num_classes: int) -> int:
    return num_classes**2


def _moments_size(num_classes: int) -> int:
    return num_classes**3 + 2 * num_classes


LABEL_FREE_SCORES = {
    "information_maximisation": LabelFreeScore(
        lambda classes: classes + 2, class_shares, information_maximisation
    ),
    "nuclear_norm": LabelFreeScore(_moments_size, class_moments, nuclear_norm),
    "correlation": LabelFreeScore(_moments_size, class_moments, correlation),
    "mean_entropy": LabelFreeScore(_moments_size, class_moments, mean_entropy, lower=True),
    "soft_neighbourhood_density": LabelFreeScore(
        lambda _classes: 2, neighbourhood, soft_neighbourhood_density
    ),
    FLIP_CONSISTENCY: LabelFreeScore(_pairs_size, class_pairs, consistency, MIRRORED),
    "colour_consistency": LabelFreeScore(_pairs_size, class_pairs, consistency, RECOLOURED),
    TEACHER_AGREEMENT: LabelFreeScore(_pairs_size, class_pairs, consistency, AVERAGE),
}
"""By the spec's `evaluate.select_by` and `evaluate.log_label_free`."""


def without_average(names: Sequence[str], average: Segmenter | None) -> tuple[str, ...]:
    """Those of the scores that can be had: `teacher_agreement` needs the average beside."""
    return tuple(
        name for name in names if average is not None or LABEL_FREE_SCORES[name].beside != AVERAGE
    )
