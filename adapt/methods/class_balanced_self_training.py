"""CBST (Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-balanced
Self-training, ECCV 2018).

A trained network's own predictions on the target are labels to train it on, where it is sure. One
threshold for all classes would keep the easy ones alone: each class c has its own, exp(-k_c), above
which lies the portion p of the pixels predicted as c (Eq. 5). A pixel gets the class with the
highest p_c / exp(-k_c), and no label where that is below 1 (Eq. 4). Each round labels the target
anew and takes a larger portion. Program, ResNet-101: CBST as Zou et al., Confidence Regularized
Self-Training, ICCV 2019, released it. Its spatial prior (CBST-SP), its mining of patches with rare
classes and its choice of a share of the source are not here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.config.section import Section
from adapt.losses import at_least_float32
from adapt.methods.labeller import Facts, Labeller, LabellingConfig, Part
from adapt.methods.method import Method, Term, weighted
from adapt.ranks import sum_over_ranks

BIN_SHIFT = 14
"""Bits of a float32 that a bin leaves out: bins are 2^-9 of their value wide, 0.2 %."""
NUM_BINS = 1 << (31 - BIN_SHIFT)


class ClassBalancedConfig(LabellingConfig):
    """Portions of the target's pixels that are labelled."""

    portion: float = Field(
        0.2, gt=0, le=1, description="Share of each class's pixels that the first round labels."
    )
    portion_step: float = Field(0.05, ge=0, le=1, description="Added to it in each later round.")
    largest_portion: float = Field(0.5, gt=0, le=1, description="Portion that no round exceeds.")
    start: bool = Field(
        True, description="Start training from the same weights (the paper), not from model's."
    )


class CBSTConfig(Section):
    """Rounds of labelling and training."""

    name: Literal["class_balanced_self_training"] = Field(
        "class_balanced_self_training",
        description="Pseudo-labels by class-wise thresholds, CBST (ECCV 2018).",
    )
    pseudo_labels: ClassBalancedConfig = Field(
        ClassBalancedConfig(), description="The labelling stage before each round of training."
    )
    rounds: int = Field(
        3,
        ge=1,
        description="Labelling stages, each followed by an equal share of train.steps. Later ones "
        "use the network as it is then (the program: 3).",
    )
    weight_target: float = Field(
        1.0, ge=0, description="Weight of the loss on the target's pseudo-labels (the paper: 1)."
    )


class ClassBalanced(Labeller):
    """Thresholds from histograms of -log p over all pixels of the target, class by class.

    A bin is as wide as 0.2 % of -log p, so that thresholds are as fine near probability 1, where
    most are, as elsewhere; a class's bins take 1 MB. All counts are whole numbers: any number of
    ranks finds the same.
    """

    labelled: ClassVar[Mapping[str, bool]] = {"target": True}

    def __init__(
        self, config: Any, num_classes: int, num_samples: int, round_number: int = 0
    ) -> None:
        super().__init__(config, num_classes, num_samples, round_number)
        self._counts: Tensor | None = None

    @property
    def portion(self) -> float:
        """p of this round."""
        later = self.config.portion + self.round_number * self.config.portion_step
        return float(min(later, max(self.config.largest_portion, self.config.portion)))

    def observe(self, sample: int, logits: Tensor) -> None:  # noqa: ARG002, all count alike
        """Count -log p of each pixel's most probable class, in that class's bins."""
        if self._counts is None:
            size = self.num_classes * NUM_BINS
            self._counts = torch.zeros(size, dtype=torch.int64, device=logits.device)
        highest, classes = log_probabilities(logits).max(dim=0)
        bins = (classes * NUM_BINS + bin_of(-highest)).flatten()
        self._counts.scatter_add_(0, bins, torch.ones_like(bins))

    def facts(self) -> Facts:
        """`k` of each class, and the number of its `pixels`."""
        counts = self._counts
        if counts is None:
            counts = torch.zeros(self.num_classes * NUM_BINS, dtype=torch.int64)
        counts = sum_over_ranks(counts).cpu().view(self.num_classes, NUM_BINS)
        return {
            "k": [threshold(row, self.portion) for row in counts],
            "pixels": counts.sum(dim=1).tolist(),
        }

    def parts(self, facts: Facts) -> Mapping[str, Part]:  # noqa: ARG002, whatever they are
        """All of the target."""
        return {"target": Part("all", tuple(range(self.num_samples)))}

    def labels(self, facts: Facts, logits: Tensor) -> Tensor:
        """The class of the largest log p_c + k_c, where that is not negative."""
        log_p = log_probabilities(logits)
        k = torch.tensor(facts["k"], dtype=log_p.dtype, device=logits.device)
        sure, classes = (log_p + k[:, None, None]).max(dim=0)
        return torch.where(sure >= 0, classes, IGNORED).to(torch.uint8)

    def settings(self) -> Mapping[str, Any]:
        """This round's portion alone."""
        return {"portion": self.portion}

    def shown(self, facts: Facts) -> Mapping[str, Sequence[float]]:
        """The classes' thresholds as probabilities."""
        return {"threshold": [math.exp(-k) for k in facts["k"]]}


def log_probabilities(logits: Tensor) -> Tensor:
    """(K, H, W) -> log p, in at least float32; -log p near 0 is exact to rounding."""
    return F.log_softmax(at_least_float32(logits), dim=0)


def bin_of(values: Tensor) -> Tensor:
    """Not negative numbers -> int64 bins in their order: the leading bits of a float32, which are
    its exponent and its first binary places."""
    return (values.float().abs().view(torch.int32) >> BIN_SHIFT).long()


def threshold(counts: Tensor, portion: float) -> float:
    """(NUM_BINS,) pixels by their -log p -> k: with `portion` of them at or below it, more by the
    rest of a bin at most. 0, that is probability 1, where the portion is not even one pixel."""
    wanted = math.floor(portion * int(counts.sum()) + 1e-9)
    if wanted < 1:
        return 0.0
    last = int(torch.searchsorted(counts.cumsum(dim=0), wanted))
    upper = torch.tensor((last + 1 << BIN_SHIFT) - 1, dtype=torch.int32).view(torch.float32)
    return float(upper)


class ClassBalancedSelfTraining(Method):
    """Supervised losses on the source's labels and on the target's pseudo-labels."""

    Config: ClassVar[type[Section]] = CBSTConfig
    labeller: ClassVar[type[Labeller] | None] = ClassBalanced

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation on the source, then on the target (Eq. 1 and 3)."""
        assert source.labels is not None
        prediction = self.segmenter(source.images)
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
        del prediction

        assert target is not None and target.labels is not None, "the labelling stage made them"
        prediction = self.segmenter(target.images)
        named = self.segmenter.segmentation_losses(prediction, target.labels)
        factor = self.config.weight_target
        yield weighted(
            {name: (factor * weight, loss) for name, (weight, loss) in named.items()},
            "pseudo_labels/",
        )
