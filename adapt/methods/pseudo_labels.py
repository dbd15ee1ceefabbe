"""Pseudo-labels: a teacher's classes on the target, with a weight for each pixel."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from adapt.config.section import Section
from adapt.ranks import mean_over_ranks, sum_over_ranks

Share = Annotated[float, Field(ge=0, lt=0.5)]


class PseudoLabels(NamedTuple):
    """`labels` (B, H, W) int64 train ids; `weights` (B, H, W) in [0, 1]."""

    labels: Tensor
    weights: Tensor


class PseudoLabelConfig(Section):
    """Quality weights of the teacher's labels, by its confidence."""

    threshold: float = Field(
        0.968,
        ge=0,
        le=1,
        description="Probability from which the teacher is sure of a pixel (DACS, DAFormer, MIC).",
    )
    quality: Literal["batch", "image", "pixel", "class"] = Field(
        "batch",
        description="Weight of a target pixel. batch: the share of sure pixels in the whole batch "
        "(DACS, DAFormer, MIC); image: the share in its image; pixel: 1 where the teacher is sure, "
        "else 0; class: as pixel, but it also suffices to be as sure as the mean of the batch's "
        "pixels of that class, so that hard classes are not left out.",
    )
    margins: tuple[Share, Share, Share, Share] = Field(
        (0.0, 0.0, 0.0, 0.0),
        description="Shares of height or width at the top, bottom, left and right of an image whose"
        " pseudo-labels do not count, such as a car's bonnet (DAFormer on crops of 512 pixels: "
        "15 px at the top, 120 px at the bottom, which are [0.029, 0.234, 0, 0]).",
    )


class _Decided(NamedTuple):
    """Of one part: the highest probability, (B, H, W), its class, and the number of classes."""

    confidences: Tensor
    labels: Tensor
    num_classes: int

    def reaches(self, threshold: float | Tensor) -> Tensor:
        """(B, H, W): 1 where the teacher is sure, else 0."""
        return (self.confidences >= threshold).to(self.confidences.dtype)


def pseudo_labels(parts: Iterable[Tensor], config: PseudoLabelConfig) -> list[PseudoLabels]:
    """A teacher's probabilities (B, K, H, W) of a batch's parts -> most probable classes and their
    weights, by part."""
    decided = [_Decided(*one.max(dim=1), one.shape[1]) for one in parts]
    weights = _QUALITIES[config.quality](decided, config.threshold)
    return [
        PseudoLabels(one.labels, quality * _counted(quality, config.margins))
        for one, quality in zip(decided, weights, strict=True)
    ]


def _of_batch(parts: Sequence[_Decided], threshold: float) -> list[Tensor]:
    shares = [part.reaches(threshold).mean() for part in parts]
    quality = mean_over_ranks(torch.stack(shares).mean())
    return [quality.expand_as(part.confidences) for part in parts]


def _of_image(parts: Sequence[_Decided], threshold: float) -> list[Tensor]:
    sure = [part.reaches(threshold) for part in parts]
    return [one.mean(dim=(1, 2), keepdim=True).expand_as(one) for one in sure]


def _of_pixel(parts: Sequence[_Decided], threshold: float) -> list[Tensor]:
    return [part.reaches(threshold) for part in parts]


def _of_class(parts: Sequence[_Decided], threshold: float) -> list[Tensor]:
    """The class-wise mean confidence is FreeMatch's local threshold (Wang et al., ICLR 2023), of
    this batch alone instead of a running average: no state, and any number of ranks agrees."""
    sums = sum_over_ranks(torch.stack([_confidence_sums(part) for part in parts]).sum(dim=0))
    means = sums[0] / sums[1].clamp(min=1)
    limits = means.clamp(max=threshold).to(parts[0].confidences.dtype)
    return [part.reaches(limits[part.labels]) for part in parts]


def _confidence_sums(part: _Decided) -> Tensor:
    """(2, K) float64: the sum of each class's confidences, and the number of its pixels."""
    confidences = part.confidences.double()
    of_classes = [part.labels == number for number in range(part.num_classes)]
    return torch.stack(
        [
            torch.stack([(confidences * one).sum() for one in of_classes]),
            torch.stack([one.double().sum() for one in of_classes]),
        ]
    )


_QUALITIES = {"batch": _of_batch, "image": _of_image, "pixel": _of_pixel, "class": _of_class}


def _counted(like: Tensor, margins: tuple[float, float, float, float]) -> Tensor:
    """(H, W): 1 within the margins, else 0."""
    height, width = like.shape[-2:]
    top, bottom, left, right = margins
    counted = torch.zeros(height, width, dtype=like.dtype, device=like.device)
    counted[
        round(top * height) : height - round(bottom * height),
        round(left * width) : width - round(right * width),
    ] = 1
    return counted
