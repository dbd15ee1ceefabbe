"""BiSeNet (Yu, Wang, Peng, Gao, Yu & Sun, Bilateral Segmentation Network ..., ECCV 2018).

Two paths: a spatial one of three strided convolutions on the image keeps detail, a context one of a
light encoder sees far. Attention refines the context at 1/16 and 1/32, to which the image's average
is added (not multiplied); a fusion module joins both paths at 1/8. Two auxiliary losses of weight 1
guide the context path. All losses are cross entropies, as in the paper; the authors' later program
counts hard pixels alone.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import PyramidConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import conv_bn, conv_bn_relu, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

SPATIAL, CONTEXT, FUSED, MAIN_HEAD, AUX_HEAD = 128, 128, 256, 64, 256


class BiSeNetConfig(PyramidConfig):
    """BiSeNet's own choices."""

    architecture: Literal["bisenet"] = Field(
        "bisenet", description="A spatial and a context path, for speed (ECCV 2018)."
    )
    encoder: str = Field(
        "resnet18.tv_in1k", description="A backbone; the paper's are ResNet-18 and Xception-39."
    )
    aux: bool = Field(True, description="Heads on the context path at 1/8 and 1/16 (the paper's).")
    weight_aux: float = Field(
        1.0, ge=0, description="Weight of each auxiliary cross entropy (the paper's alpha: 1)."
    )


class AttentionRefinement(nn.Module):
    """3x3, weighed by channel from its own average: (B, C, h, w) -> (B, 128, h, w)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.project = conv_bn_relu(in_channels, CONTEXT)
        self.weigh = conv_bn(CONTEXT, CONTEXT, 1)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        return projected * self.weigh(F.adaptive_avg_pool2d(projected, 1)).sigmoid()


class FeatureFusion(nn.Module):
    """Both paths joined, plus the join weighed by channel: two (B, 128, h, w) -> (B, 256, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.join = conv_bn_relu(SPATIAL + CONTEXT, FUSED, 1)
        self.weigh = nn.Sequential(
            nn.Conv2d(FUSED, FUSED, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(FUSED, FUSED, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        joined = self.join(torch.cat([spatial, context], dim=1))
        return joined + joined * self.weigh(F.adaptive_avg_pool2d(joined, 1))


class BiSeNetDecoder(Decoder):
    """BiSeNet: a path for detail beside one for context, for speed.

    Spatial path on the image, context path on the stages at 1/16 and 1/32.
    """

    Config: ClassVar[type[SegmenterConfig]] = BiSeNetConfig
    demands: ClassVar[Demands] = Demands(reductions=(16, 32))

    def __init__(self, config: BiSeNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.spatial = nn.Sequential(
            conv_bn_relu(3, 64, 7, stride=2),
            conv_bn_relu(64, 64, stride=2),
            conv_bn_relu(64, 64, stride=2),
            conv_bn_relu(64, SPATIAL, 1),
        )
        self.stages = encoder.stage_at(32), encoder.stage_at(16)
        self.average = conv_bn_relu(encoder.channels_at(32), CONTEXT, 1)
        self.attention = nn.ModuleList(
            AttentionRefinement(encoder.channels[stage]) for stage in self.stages
        )
        self.refine = nn.ModuleList(conv_bn_relu(CONTEXT, CONTEXT) for _ in self.stages)
        self.fusion = FeatureFusion()
        self.main = _head(FUSED, MAIN_HEAD, num_classes)
        self.aux = nn.ModuleList(
            _head(CONTEXT, AUX_HEAD, num_classes) for _ in self.stages if config.aux
        )

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Images, stages -> [main logits at 1/8, the context path's at 1/8 and 1/16]."""
        spatial = self.spatial(images)
        deep, middle = (features[stage] for stage in self.stages)
        context, contexts = self.average(F.adaptive_avg_pool2d(deep, 1)), []
        blocks = zip(self.attention, self.refine, (deep, middle), (middle, spatial), strict=True)
        for attention, refine, stage, larger in blocks:
            attended = attention(stage)
            context = refine(resize_to(attended + resize_to(context, attended), larger))
            contexts.append(context)
        logits = [self.main(self.fusion(spatial, context))]
        logits += [head(one) for head, one in zip(self.aux, contexts[::-1], strict=False)]
        return logits, {}


def _head(in_channels: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(in_channels, width), nn.Conv2d(width, num_classes, 1))
