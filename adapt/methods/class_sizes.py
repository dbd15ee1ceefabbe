"""Sizes of classes in source images, and the loss that keeps target images near them.

The category alignment of FCNs in the Wild (Hoffman et al., arXiv 1612.02649, 2016) by the
constrained loss of Pathak et al. (Constrained Convolutional Neural Networks for Weakly Supervised
Segmentation, ICCV 2015): of all distributions that obey the sizes, the one nearest to the
network's predictions becomes their target. It is found on the dual by generalised iterative scaling
(Darroch and Ratcliff, 1972), which needs no step size because classes sum to 1 in every pixel.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from adapt.losses import EPSILON

BOUNDARY = 0.1
"""alpha is the lower, gamma the upper 10 % boundary of a class's sizes (the paper)."""

LARGE, LARGE_FACTOR = 0.1, 0.1
"""Gradients of classes whose alpha exceeds the one are multiplied by the other (the paper)."""

SCALING_ROUNDS = 100


class ClassSizes(NamedTuple):
    """Shares of an image, (K,) each, over the source images that have the class at all.

    `alpha` lower boundary, `delta` mean, `gamma` upper boundary, at least delta. NaN for classes
    that no source image has.
    """

    alpha: Tensor
    delta: Tensor
    gamma: Tensor


def class_sizes(label_pixels: Tensor) -> ClassSizes:
    """(N, K) pixels of each class in each source image -> sizes; images without labels aside."""
    counts = label_pixels[label_pixels.sum(dim=1) > 0].double()
    shares = counts / counts.sum(dim=1, keepdim=True)
    present = torch.where(shares > 0, shares, torch.nan)
    delta = present.nanmean(dim=0)
    alpha, gamma = (present.nanquantile(at, dim=0) for at in (BOUNDARY, 1 - BOUNDARY))
    return ClassSizes(alpha.float(), delta.float(), torch.maximum(gamma, delta).float())


def size_loss(probabilities: Tensor, sizes: ClassSizes, slack: float) -> Tensor:
    """Pulls predictions (B, K, h, w) to the nearest ones that obey the sizes -> scalar.

    A class counts as present in an image where more than a tenth of alpha is predicted as it; its
    mean probability must lie between delta and gamma. With q the nearest distribution, the gradient
    is that of the cross entropy to q, class by class; it is 0 where nothing is violated.
    """
    pixels = probabilities.flatten(start_dim=2)
    predicted = torch.zeros_like(pixels).scatter_(1, pixels.argmax(dim=1, keepdim=True), 1.0)
    present = predicted.mean(dim=2) > BOUNDARY * sizes.alpha  # no class is, where alpha is NaN
    lower = torch.where(present, sizes.delta.to(pixels), 0.0)
    upper = torch.where(present, sizes.gamma.to(pixels), torch.inf)
    nearest = nearest_distribution(pixels.detach(), lower, upper, slack)
    factors = torch.where(sizes.alpha > LARGE, LARGE_FACTOR, 1.0).to(pixels)
    pull = factors[:, None] * (pixels.detach() - nearest)
    return (pull * torch.log(pixels + EPSILON)).sum(dim=1).mean()


@torch.no_grad()
def nearest_distribution(
    probabilities: Tensor, lower: Tensor, upper: Tensor, slack: float
) -> Tensor:
    """argmin over q of KL(q || p) with lower <= mean over pixels of q <= upper, by image and class.

    probabilities (B, K, P), bounds (B, K) with lower 0 and upper inf where there are none ->
    (B, K, P). A lower bound may be missed at a price of `slack` for each unit; an upper one not.
    """
    tilt = torch.zeros_like(lower)  # log of the factor on each class: lower minus upper multiplier
    for _ in range(SCALING_ROUNDS):
        mean = _tilted(probabilities, tilt).mean(dim=2).clamp(min=EPSILON)
        up = (tilt + torch.log(lower / mean)).clamp(0, slack)
        down = (tilt + torch.log(upper / mean)).clamp(max=0)
        tilt = up + down  # at most one of them is not 0, since lower <= upper
    return _tilted(probabilities, tilt)


def _tilted(probabilities: Tensor, tilt: Tensor) -> Tensor:
    weighted = probabilities * torch.exp(tilt)[:, :, None]
    return weighted / weighted.sum(dim=1, keepdim=True)
