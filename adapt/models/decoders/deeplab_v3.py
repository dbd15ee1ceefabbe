"""DeepLabV3 (Chen, Papandreou, Schroff & Adam, Rethinking Atrous Convolution ..., 2017).

A dilated encoder, whose last three 3x3 convolutions are dilated unequally (multi-grid), and an
atrous spatial pyramid: a 1x1, three dilated 3x3 and the image's average side by side, concatenated.
Rates are 6, 12, 18 at output stride 16 and follow the stride. The head is torchvision's, with a 3x3
convolution before the classifier that the paper does not have; its weights fit one to one.
"""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import FCNHead, conv_bn_relu
from adapt.models.segmenter import DeepestStagesDecoder

WIDTH = 256
RATES_AT_STRIDE_1 = (96, 192, 288)


class DeepLabV3Config(AuxiliaryConfig):
    """DeepLabV3's own choices."""

    described: ClassVar[tuple[str, ...]] = (*AuxiliaryConfig.described, "multi_grid")

    architecture: Literal["deeplab_v3"] = Field(
        "deeplab_v3", description="Atrous spatial pyramid with image pooling (2017)."
    )
    encoder: str = Field("resnet101.tv_in1k", description="A backbone; the paper's is ResNet-101.")
    output_stride: Literal[8, 16, 32] = Field(
        16, description="16 to train, as in the paper, which evaluates at 8; the rates follow."
    )
    multi_grid: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        (1, 2, 4),
        min_length=1,
        max_length=4,
        description="Dilation of the encoder's last 3x3 convolutions in units of its last stage's "
        "(the paper: 1, 2, 4); null: as the encoder has them (torchvision).",
    )
    aux: bool = Field(
        True, description="An auxiliary head on the last stage but one (torchvision's)."
    )
    weight_aux: float = Field(
        0.5, ge=0, description="Weight of the auxiliary cross entropy (torchvision's recipe: 0.5)."
    )


class AtrousSpatialPyramidPooling(nn.Module):
    """(B, C, h, w) -> (B, 256, h, w): five branches of 256 channels, concatenated, projected."""

    def __init__(self, in_channels: int, output_stride: int) -> None:
        super().__init__()
        rates = [rate // output_stride for rate in RATES_AT_STRIDE_1]
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(in_channels, WIDTH, kernel_size=1),
                *(conv_bn_relu(in_channels, WIDTH, dilation=rate) for rate in rates),
            ]
        )
        self.image_pooling = conv_bn_relu(in_channels, WIDTH, kernel_size=1)
        self.project = nn.Sequential(
            *conv_bn_relu(5 * WIDTH, WIDTH, kernel_size=1), nn.Dropout(0.5)
        )

    def forward(self, features: Tensor) -> Tensor:
        average = self.image_pooling(F.adaptive_avg_pool2d(features, 1))
        parts = [branch(features) for branch in self.branches]
        parts.append(average.expand(-1, -1, *features.shape[-2:]))
        return self.project(torch.cat(parts, dim=1))


class DeepLabV3Decoder(DeepestStagesDecoder):
    """DeepLabV3: dilated convolutions and the image's average, side by side.

    The pyramid on the deepest stage, an auxiliary head on the one before.
    """

    Config: ClassVar[type[SegmenterConfig]] = DeepLabV3Config

    def __init__(self, config: DeepLabV3Config, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        if config.multi_grid is not None:
            encoder.spread(config.multi_grid)
        self.main = nn.Sequential(
            AtrousSpatialPyramidPooling(encoder.channels[-1], encoder.output_stride),
            conv_bn_relu(WIDTH, WIDTH),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        self.aux = FCNHead(encoder.channels[-2], num_classes) if config.aux else None
