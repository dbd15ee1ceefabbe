"""Pseudo-labels: a teacher's classes on the target, with a weight for each pixel."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from adapt.config.section import Section
from adapt.ranks import mean_over_ranks

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
    quality: Literal["batch", "image", "pixel"] = Field(
        "batch",
        description="Weight of a target pixel. batch: the share of sure pixels in the whole batch "
        "(DACS, DAFormer, MIC); image: the share in its image; pixel: 1 where the teacher is sure, "
        "else 0.",
    )
    margins: tuple[Share, Share, Share, Share] = Field(
        (0.0, 0.0, 0.0, 0.0),
        description="Shares of height or width at the top, bottom, left and right of an image whose"
        " pseudo-labels do not count, such as a car's bonnet (DAFormer on crops of 512 pixels: "
        "15 px at the top, 120 px at the bottom, which are [0.029, 0.234, 0, 0]).",
    )


def pseudo_labels(parts: Iterable[Tensor], config: PseudoLabelConfig) -> list[PseudoLabels]:
    """A teacher's probabilities (B, K, H, W) of a batch's parts -> most probable classes and their
    weights, by part."""
    decided = [_decided(probabilities, config.threshold) for probabilities in parts]
    weights = _QUALITIES[config.quality]([sure for sure, _ in decided])
    return [
        PseudoLabels(labels, quality * _counted(quality, config.margins))
        for (_, labels), quality in zip(decided, weights, strict=True)
    ]


def _decided(probabilities: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(B, H, W) each: 1 where the teacher is sure, else 0; and the most probable class."""
    confidence, labels = probabilities.max(dim=1)
    return (confidence >= threshold).to(probabilities.dtype), labels


def _of_batch(sure: Sequence[Tensor]) -> list[Tensor]:
    quality = mean_over_ranks(torch.stack([part.mean() for part in sure]).mean())
    return [quality.expand_as(part) for part in sure]


def _of_image(sure: Sequence[Tensor]) -> list[Tensor]:
    return [part.mean(dim=(1, 2), keepdim=True).expand_as(part) for part in sure]


def _of_pixel(sure: Sequence[Tensor]) -> list[Tensor]:
    return list(sure)


_QUALITIES = {"batch": _of_batch, "image": _of_image, "pixel": _of_pixel}


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
