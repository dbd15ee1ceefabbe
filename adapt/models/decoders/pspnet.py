"""PSPNet (Zhao, Shi, Qi, Wang & Jia, Pyramid Scene Parsing Network, CVPR 2017).

A dilated ResNet; its deepest features, averaged over the whole image and over 2 x 2, 3 x 3 and
6 x 6 parts of it, join the features themselves. An auxiliary loss on the stage before (weight 0.4).
The authors' ResNets have a stem of three 3x3 convolutions: timm's resnet50s and resnet101s. Their
program dilates every block of the last two stages, timm all but the first of each, whose 3x3 is the
one that lost its stride.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import FCNHead, conv_bn_relu, resize_to
from adapt.models.segmenter import DeepestStagesDecoder

BINS, WIDTH = (1, 2, 3, 6), 512


class PSPNetConfig(AuxiliaryConfig):
    """PSPNet's own choices."""

    architecture: Literal["pspnet"] = Field(
        "pspnet", description="Pyramid pooling on a dilated encoder (CVPR 2017)."
    )
    encoder: str = Field("resnet101s", description="A backbone; the authors' is resnet101s.")
    weight_aux: float = Field(
        0.4, ge=0, description="Weight of the auxiliary cross entropy (the paper: 0.4)."
    )


class PyramidPooling(nn.Module):
    """Features and their averages over four grids: (B, C, h, w) -> (B, 2 C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            conv_bn_relu(channels, channels // len(BINS), kernel_size=1) for _ in BINS
        )

    def forward(self, features: Tensor) -> Tensor:
        levels = [features]
        for size, projection in zip(BINS, self.projections, strict=True):
            pooled = projection(F.adaptive_avg_pool2d(features, size))
            levels.append(resize_to(pooled, features, align_corners=True))
        return torch.cat(levels, dim=1)


class PSPNetDecoder(DeepestStagesDecoder):
    """PSPNet: averages over four grids as context.

    Pyramid pooling on the deepest stage, an auxiliary head on the one before.
    """

    Config: ClassVar[type[SegmenterConfig]] = PSPNetConfig
    align_corners: ClassVar[bool] = True

    def __init__(self, config: PSPNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        channels = encoder.channels[-1]
        joined = channels + channels // len(BINS) * len(BINS)
        self.main = nn.Sequential(
            PyramidPooling(channels),
            conv_bn_relu(joined, WIDTH),
            nn.Dropout2d(0.1),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        self.aux = FCNHead(encoder.channels[-2], num_classes) if config.aux else None
