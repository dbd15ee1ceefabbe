"""The choice of images to label: far from what is chosen already, unsure, of rare classes.

Farthest-first traversal (k-centre greedy: Gonzalez, 1985; Sener and Savarese, Active Learning for
Convolutional Neural Networks: A Core-Set Approach, ICLR 2018) of an encoder's features, each
distance times the image's uncertainty and times the rarity of its classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from adapt.errors import JobError, known_names

Choose = Callable[[Tensor, Tensor, int, int, Sequence[int]], list[int]]


def relative(values: Tensor) -> Tensor:
    """Values (N,) over their mean, so that factors weigh alike whatever their scale."""
    return values / values.mean().clamp(min=1e-12)


def image_weights(entropy: Tensor, class_shares: Tensor) -> Tensor:
    """Mean entropy of each image (N,) and the shares of its predicted classes (N, K) -> (N,): its
    uncertainty times its rarity, both over their means.

    A class is as rare as the root of its share of all images says; without the root, one pixel of
    the rarest class would outweigh all else.
    """
    overall = class_shares.mean(dim=0).clamp(min=1e-6)
    rarity = (class_shares * overall.rsqrt()).sum(dim=1)
    return relative(entropy) * relative(rarity)


def farthest_first(
    features: Tensor, weights: Tensor, count: int, _seed: int, chosen: Sequence[int]
) -> list[int]:
    """`count` numbers of images by features (N, C) and weights (N,), in the order of their choice;
    those that are `chosen` already repel but are not given again.

    The first, where none is chosen, is that of the greatest weight.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    nearest = torch.full((len(unit),), torch.inf, dtype=torch.float64)
    for one in chosen:
        nearest = torch.minimum(nearest, 1 - unit @ unit[one])
    free = torch.ones(len(unit), dtype=torch.bool)
    free[list(chosen)] = False
    picked: list[int] = []
    for _ in range(min(count, int(free.sum()))):
        distance = nearest.clamp(min=0) if nearest.isfinite().all() else torch.ones(len(unit))
        gain = (distance * weights).masked_fill(~free, -1)
        one = int(gain.argmax())
        picked.append(one)
        free[one] = False
        nearest = torch.minimum(nearest, 1 - unit @ unit[one])
    return picked


def at_random(
    features: Tensor, _weights: Tensor, count: int, seed: int, chosen: Sequence[int]
) -> list[int]:
    """`count` numbers at random, the control of every comparison."""
    free = [one for one in range(len(features)) if one not in set(chosen)]
    order = np.random.default_rng(seed).permutation(free)
    return [int(one) for one in order[:count]]


CHOICES: dict[str, Choose] = {"score": farthest_first, "random": at_random}
"""By `--by`."""


def choice(name: str) -> Choose:
    """A row of `CHOICES`. Raises `JobError` for another name."""
    if name not in CHOICES:
        raise JobError(f"--by: expected a way to choose, {known_names(name, CHOICES)}")
    return CHOICES[name]
