"""DeepLabV3+ (Chen, Zhu, Papandreou, Schroff & Adam, Encoder-Decoder with Atrous ..., ECCV 2018).

DeepLabV3's pyramid, brought to a quarter of the image's size, where 48 channels of shallow features
join it and two 3x3 convolutions of 256 channels refine both. The pyramid and the decoder have plain
convolutions, as with ResNets; the paper's best network has separable ones on a changed Xception.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.decoders.deeplab_v3 import WIDTH, AtrousSpatialPyramidPooling
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import FCNHead, conv_bn_relu, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

SHALLOW, SHALLOW_WIDTH = 4, 48


class DeepLabV3PlusConfig(AuxiliaryConfig):
    """DeepLabV3+'s own choices."""

    architecture: Literal["deeplab_v3_plus"] = Field(
        "deeplab_v3_plus", description="DeepLabV3 with a decoder at 1/4 of the size (ECCV 2018)."
    )
    encoder: str = Field(
        "resnet101.tv_in1k", description="A backbone; the paper's are ResNet-101 and Xception."
    )
    output_stride: Literal[8, 16, 32] = Field(
        16, description="16 to train, as in the paper; the pyramid's rates follow."
    )
    aux: bool = Field(
        True, description="An auxiliary head on the last stage but one: our addition."
    )


class DeepLabV3PlusDecoder(Decoder):
    """DeepLabV3+: DeepLabV3, refined at a quarter of the size.

    Pyramid on the deepest stage, joined by the stage at 1/4; an auxiliary head.
    """

    Config: ClassVar[type[SegmenterConfig]] = DeepLabV3PlusConfig
    demands: ClassVar[Demands] = Demands(reductions=(SHALLOW,))

    def __init__(self, config: DeepLabV3PlusConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.pyramid = AtrousSpatialPyramidPooling(encoder.channels[-1], encoder.output_stride)
        self.shallow_stage = encoder.stage_at(SHALLOW)
        shallow_channels = encoder.channels_at(SHALLOW)
        self.shallow = conv_bn_relu(shallow_channels, SHALLOW_WIDTH, kernel_size=1)
        self.refine = nn.Sequential(
            conv_bn_relu(WIDTH + SHALLOW_WIDTH, WIDTH),
            conv_bn_relu(WIDTH, WIDTH),
            nn.Conv2d(WIDTH, num_classes, 1),
        )
        self.aux = FCNHead(encoder.channels[-2], num_classes) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at 1/4 of the size, auxiliary ones at the output stride]."""
        shallow = self.shallow(features[self.shallow_stage])
        deep = resize_to(self.pyramid(features[-1]), shallow)
        logits = [self.refine(torch.cat([deep, shallow], dim=1))]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {}
