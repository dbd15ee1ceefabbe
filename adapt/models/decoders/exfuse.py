"""ExFuse (Zhang, Zhang, Peng, Xue & Sun, Enhancing Feature Fusion ..., ECCV 2018).

GCN, with shallow features made more semantic and deep ones finer. Semantic embedding: a stage's
features are multiplied by those of every deeper stage, each brought to its width and size (batch
norm keeps the product in bounds; it is ours). Channel resolution embedding: the deepest scores are
enlarged by sub-pixel shuffling, with a loss of their own. Densely adjacent prediction: the last
layer gives 9 maps a class, and a pixel's score is the mean of what its 3 x 3 neighbours say of it.
What the paper changes in the backbone (more blocks in early stages) and in its pre-training on
ImageNet is not here.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import PyramidConfig, SegmenterConfig
from adapt.models.decoders.gcn import ScorePyramid
from adapt.models.demands import PYRAMID, QUARTERS, Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import BatchNorm, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

KERNEL_SIZE, NEIGHBOURS = 15, 3


class ExFuseConfig(PyramidConfig):
    """ExFuse's own choices."""

    architecture: Literal["exfuse"] = Field(
        "exfuse", description="GCN with semantics in shallow and detail in deep stages (ECCV 2018)."
    )
    encoder: str = Field(
        "resnext101_32x8d.tv_in1k", description="A backbone; the paper's is a ResNeXt-101."
    )
    aux: bool = Field(
        True,
        description="Heads on the deepest scores, enlarged, at 1/16 (the paper's) and on the sum "
        "at 1/8 (our addition).",
    )
    weight_aux: float = Field(
        0.4, ge=0, description="Weight of each auxiliary cross entropy (a guess: not published)."
    )


class SemanticEmbedding(nn.Module):
    """A stage's features times all deeper stages' in its width: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int, deeper_channels: list[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(deeper, channels, 3, padding=1), BatchNorm(channels))
            for deeper in deeper_channels
        )

    def forward(self, stage: Tensor, deeper: list[Tensor]) -> Tensor:
        """(B, C, h, w), deeper stages -> (B, C, h, w)."""
        for branch, one in zip(self.branches, deeper, strict=True):
            stage = stage * resize_to(branch(one), stage)
        return stage


class DenselyAdjacentPrediction(nn.Module):
    """3x3 to 9 maps a class, each read at one neighbour's place, and their mean.

    (B, K, h, w) -> (B, K, h, w). Map 3l + m of a class is read at (i + l - 1, j + m - 1).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_classes, num_classes * NEIGHBOURS**2, 3, padding=1)

    def forward(self, scores: Tensor) -> Tensor:
        height, width = scores.shape[-2:]
        border = NEIGHBOURS // 2
        maps = F.pad(self.conv(scores).unflatten(1, (-1, NEIGHBOURS, NEIGHBOURS)), [border] * 4)
        read = [
            maps[:, :, row, column, row : row + height, column : column + width]
            for row in range(NEIGHBOURS)
            for column in range(NEIGHBOURS)
        ]
        return torch.stack(read).mean(dim=0)


class ExFuseDecoder(Decoder):
    """ExFuse: GCN with semantics in shallow and detail in deep stages.

    Semantic embedding before, sub-pixel enlargement in, dense prediction after GCN's pyramid.
    """

    Config: ClassVar[type[SegmenterConfig]] = ExFuseConfig
    demands: ClassVar[Demands] = PYRAMID

    def __init__(self, config: ExFuseConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.stages = [encoder.stage_at(reduction) for reduction in QUARTERS[::-1]]
        channels = [encoder.channels[stage] for stage in self.stages]
        self.embeddings = nn.ModuleList(
            SemanticEmbedding(own, channels[:number]) for number, own in enumerate(channels)
        )
        enlarge = nn.Sequential(
            nn.Conv2d(num_classes, 4 * num_classes, 3, padding=1), nn.PixelShuffle(2)
        )
        self.pyramid = ScorePyramid(channels, num_classes, KERNEL_SIZE, enlarge)
        self.predict = DenselyAdjacentPrediction(num_classes)

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at full size, the sum at 1/8, the enlarged scores at 1/16]."""
        stages = [features[stage] for stage in self.stages]
        embedded = [
            embed(stage, stages[:number])
            for number, (embed, stage) in enumerate(zip(self.embeddings, stages, strict=True))
        ]
        size_hw = (images.shape[-2], images.shape[-1])
        at_16, _, at_8, _, _, full = self.pyramid(embedded, size_hw)
        return [self.predict(full), at_8, at_16][: len(self.head_names)], {}
