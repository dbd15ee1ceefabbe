"""DAFormer's network (Hoyer, Dai & Van Gool, DAFormer: Improving Network Architectures and Training
Strategies for Domain-Adaptive Semantic Segmentation, CVPR 2022): its context-aware fusion.

Every stage is projected to 256 channels and brought to a quarter of the size, as in SegFormer; what
joins them sees context: a 1x1 and three dilated depthwise separable 3x3 convolutions side by side,
then a plain 3x3. The paper's encoder is `mit_b5`, and without image pooling; its training is the
method `daformer`, which runs on any network.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import SegmenterConfig
from adapt.models.decoders.segformer import (
    SHALLOWEST,
    StageProjections,
    TransformerStagesConfig,
)
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import BatchNorm, FCNHead, conv_bn_relu
from adapt.models.segmenter import Decoder, Heads, Stages

WIDTH, RATES = 256, (6, 12, 18)


class DAFormerHeadConfig(TransformerStagesConfig):
    """DAFormer's head's own choices."""

    architecture: Literal["daformer_head"] = Field(
        "daformer_head", description="Stages joined by separable dilated convolutions (CVPR 2022)."
    )
    width: int = Field(WIDTH, ge=1, description="Channels of the head (the paper: 256).")


class ContextFusion(nn.Module):
    """A 1x1 beside three dilated separable 3x3, joined by a 3x3: (B, C, h, w) -> (B, width, h, w).

    The rates hold for maps of a quarter of the image's size.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, width, 1)])
        self.branches.extend(separable_conv(in_channels, width, rate) for rate in RATES)
        self.join = conv_bn_relu(len(self.branches) * width, width)

    def forward(self, features: Tensor) -> Tensor:
        joined: Tensor = self.join(torch.cat([one(features) for one in self.branches], dim=1))
        return joined


def separable_conv(in_channels: int, out_channels: int, dilation: int) -> nn.Sequential:
    """Dilated 3x3 within each channel, then 1x1 over them; batch norm and ReLU after both."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, 1, dilation, dilation, groups=in_channels, bias=False
    )
    first = nn.Sequential(depthwise, BatchNorm(in_channels), nn.ReLU(inplace=True))
    return nn.Sequential(first, conv_bn_relu(in_channels, out_channels, 1))


class DAFormerHeadDecoder(Decoder):
    """DAFormer head: stages joined with context by separable convolutions.

    All stages from 1/4 on, of equal width; an auxiliary head on the last but one.
    """

    Config: ClassVar[type[SegmenterConfig]] = DAFormerHeadConfig
    demands: ClassVar[Demands] = Demands(reductions=(SHALLOWEST,))

    def __init__(self, config: DAFormerHeadConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.stages = StageProjections(encoder, config.width)
        self.fusion = ContextFusion(self.stages.out_channels, config.width)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(config.width, num_classes, 1))
        self.aux = FCNHead(encoder.channels[-2], num_classes) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at 1/4 of the size, auxiliary ones at the last stage but one]."""
        logits = [self.classifier(self.fusion(self.stages(features)))]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {}
