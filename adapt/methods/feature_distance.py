"""Distance from the features that the encoder began with (DAFormer, CVPR 2022).

An ImageNet encoder knows things that a simulator shows badly. The loss keeps the deepest features
of source pixels of thing classes near to those of the encoder before training.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import IGNORED
from adapt.config.section import Section
from adapt.counts import shared_mean
from adapt.errors import JobError
from adapt.losses import at_least_float32
from adapt.models.layers import laid_out_for_step
from adapt.models.segmenter import Segmenter


class FeatureDistanceConfig(Section):
    """Nearness to the first features."""

    weight: float = Field(0.005, ge=0, description="Weight of the distance (the paper).")
    classes: tuple[int, ...] | None = Field(
        None,
        description="Train ids whose pixels count (the paper: Cityscapes' things, [6, 7, 11, 12, "
        "13, 14, 15, 16, 17, 18]); null: all.",
    )
    majority: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of a feature's pixels that its most frequent class needs (the program).",
    )


class FeatureDistance(nn.Module):
    """The loss, with the encoder as it was when the method was built."""

    wanted: Tensor

    def __init__(self, config: FeatureDistanceConfig, segmenter: Segmenter) -> None:
        super().__init__()
        segmenter.require_learning_encoder("a feature distance")
        self.config, self.num_classes = config, segmenter.num_classes
        self.encoder = deepcopy(segmenter.encoder).requires_grad_(False)
        counted = range(self.num_classes) if config.classes is None else config.classes
        if not all(0 <= train_id < self.num_classes for train_id in counted):
            raise JobError(
                f"method.feature_distance.classes: expected train ids from 0 to "
                f"{self.num_classes - 1}, got {list(counted)}",
                fix="write ids of your classes in their order, or null for all",
            )
        wanted = torch.tensor([train_id in counted for train_id in range(self.num_classes)])
        self.register_buffer("wanted", wanted, persistent=False)

    def train(self, mode: bool = True) -> "FeatureDistance":  # noqa: ARG002
        """The encoder never trains."""
        return super().train(False)

    def forward(self, images: Tensor, labels: Tensor, features: Tensor) -> tuple[float, Tensor]:
        """Images, their labels (B, H, W), the student's deepest stage (B, C, h, w) -> (weight, mean
        L2 distance over the counted positions); 0 where none counts."""
        with torch.no_grad():
            first = self.encoder(laid_out_for_step(images))[-1]
        distances = (at_least_float32(features) - at_least_float32(first)).norm(dim=1)
        size_hw = (features.shape[-2], features.shape[-1])
        total = distances.masked_fill(~self.counted(labels, size_hw), 0).sum()
        mean = shared_mean(total, labels, lambda part: self.counted(part, size_hw).sum())
        return self.config.weight, mean

    def counted(self, labels: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """(B, H, W) train ids -> bool (B, h, w): positions ruled by a class that counts."""
        classes = labels.masked_fill(labels == IGNORED, self.num_classes)
        numbers = torch.arange(self.num_classes + 1, device=labels.device).view(-1, 1, 1)
        shares = F.adaptive_avg_pool2d((classes[:, None] == numbers).float(), size_hw)
        most, ruling = shares[:, : self.num_classes].max(dim=1)
        return (most >= self.config.majority) & self.wanted[ruling]
