"""ICNet (Zhao, Qi, Shen, Shi & Jia, ICNet for Real-Time Semantic Segmentation ..., ECCV 2018).

Three resolutions of one image. Half of it goes through the first blocks of a slim PSPNet; their
output, halved again, through the rest: both share activations, not weights alone. The full image
goes through three strided convolutions. Cascade feature fusion joins them from small to large, and
each is guided by a loss at its own size: 0.16 at 1/16, 0.4 at 1/8, 1 at 1/4. The encoder
`icnet_resnet50` has half a ResNet-50's channels. The paper trains it in full and prunes half away.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Prediction
from adapt.models.config import ScratchConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import conv_bn, conv_bn_relu, resize, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages, WeightedLosses

BINS = (1, 2, 3, 6)
LOW, FUSED, FULL_IMAGE = 256, 128, 64


class ICNetConfig(ScratchConfig):
    """ICNet's own choices."""

    aux_names: ClassVar[tuple[str, ...]] = ("aux_8", "aux_16")

    architecture: Literal["icnet"] = Field(
        "icnet", description="A cascade of three image sizes, for speed (ECCV 2018)."
    )
    encoder: Literal["icnet_resnet50"] = Field(
        "icnet_resnet50", description="The paper's, with half a ResNet-50's channels."
    )
    output_stride: Literal[32] = Field(32, description="1/8 of a quarter of the image.")
    aux: bool = Field(True, description="The heads at 1/8 and 1/16 (the paper's).")
    weight_aux: float = Field(
        0.4, ge=0, description="Weight of the cross entropy at 1/8 (the paper: 0.4)."
    )
    weight_aux_16: float = Field(
        0.16, ge=0, description="Weight of the cross entropy at 1/16 (the paper: 0.16)."
    )

    def heads(self) -> dict[str, float]:
        """As usual, with a weight of its own for the head at 1/16."""
        return {**super().heads(), "aux_16": self.weight_aux_16} if self.aux else super().heads()


class CascadeFeatureFusion(nn.Module):
    """Small features, enlarged, and large ones -> fused, and the enlarged ones for their loss."""

    def __init__(self, small_channels: int, large_channels: int) -> None:
        super().__init__()
        self.small = conv_bn(small_channels, FUSED, 3, dilation=2)
        self.large = conv_bn(large_channels, FUSED, 1)

    def forward(self, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h / 2, w / 2), (B, C', h, w) -> (B, 128, h, w), (B, C, h, w)."""
        enlarged = resize_to(small, large, align_corners=True)
        return F.relu(self.small(enlarged) + self.large(large)), enlarged


class ICNetDecoder(Decoder):
    """ICNet: a cascade of three image sizes, for speed.

    The full image's branch, pyramid pooling by sums, two fusions, a classifier for each size.
    """

    Config: ClassVar[type[SegmenterConfig]] = ICNetConfig
    demands: ClassVar[Demands] = Demands(encoders=("icnet_resnet50",))
    align_corners: ClassVar[bool] = True

    def __init__(self, config: ICNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        middle, deep = encoder.channels
        self.full_image = nn.Sequential(
            conv_bn_relu(3, 32, stride=2),
            conv_bn_relu(32, 32, stride=2),
            conv_bn_relu(32, FULL_IMAGE, stride=2),
        )
        self.low = conv_bn_relu(deep, LOW, 1)
        self.fusion_16 = CascadeFeatureFusion(LOW, middle)
        self.fusion_8 = CascadeFeatureFusion(FUSED, FULL_IMAGE)
        self.classifier = nn.Conv2d(FUSED, num_classes, 1)
        self.aux = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 1) for channels in (FUSED, LOW) if config.aux
        )

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Images, stages -> [main logits at 1/4, and those at 1/8 and 1/16], the same by name."""
        middle, deep = features
        low = self.low(_with_pooled(deep))
        at_16, low_enlarged = self.fusion_16(low, middle)
        at_8, at_16_enlarged = self.fusion_8(at_16, self.full_image(images))
        height, width = at_8.shape[-2:]
        at_4 = resize(at_8, (2 * height, 2 * width), self.align_corners)
        logits = [self.classifier(at_4)]
        taps = (at_16_enlarged, low_enlarged)
        logits += [head(tap) for head, tap in zip(self.aux, taps, strict=False)]
        return logits, dict(zip(self.head_names, logits, strict=True))

    def segmentation_losses(self, prediction: Prediction, labels: Tensor) -> WeightedLosses:
        """Label guidance: each head's own size against labels brought down to it."""
        named = zip(self.head_names, self.head_weights, strict=True)
        return {
            name: (weight, self.head_loss(prediction.extra[name], labels)) for name, weight in named
        }


def _with_pooled(features: Tensor) -> Tensor:
    """Features plus their averages over four grids, without any parameters."""
    pooled = (F.adaptive_avg_pool2d(features, size) for size in BINS)
    return features + torch.stack(
        [resize_to(grid, features, align_corners=True) for grid in pooled]
    ).sum(dim=0)
