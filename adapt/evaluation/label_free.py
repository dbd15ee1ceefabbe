"""Scores of predictions that need no labels, to choose a checkpoint where there are none.

A score is counted image by image in whole numbers, so that its value does not depend on how images
are shared out over ranks; greater is better.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

_FIXED = 2**20
"""Of a fixed-point number: sums of up to 4e12 pixels fit into 64 bits."""


class LabelFreeScore(NamedTuple):
    """A row of `LABEL_FREE_SCORES`.

    `size`: number of classes -> N. `counts`: an image's logits (K, H, W) -> (N,) int64 on their
    device. `value`: the sum of all images' counts, on the CPU -> the score; NaN without pixels.
    """

    size: Callable[[int], int]
    counts: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], float]


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


LABEL_FREE_SCORES = {
    "information_maximisation": LabelFreeScore(
        lambda classes: classes + 2, class_shares, information_maximisation
    )
}
"""By the spec's `evaluate.label_free`."""
