"""U-Net (Ronneberger, Fischer & Brox, Convolutional Networks for Biomedical ..., MICCAI 2015).

A contracting path, and an expanding one that doubles the size by transposed convolutions and joins
each time the contracting path's features of that size. As published: convolutions with biases, no
batch norm. Two things differ: convolutions are padded, where the paper's eat the border and mirror
the image to make up for it; and its weights for pixels between touching cells have no meaning here.
The encoder `unet` is the paper's contracting path; any other with halving stages takes its place.
"""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, cat, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder, PlainEncoder
from adapt.models.layers import init_he, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

WIDTHS = (64, 128, 256, 512, 1024)


class UNetConfig(AuxiliaryConfig):
    """U-Net's own choices."""

    architecture: Literal["unet"] = Field(
        "unet", description="Contracting and expanding path with joins (MICCAI 2015)."
    )
    encoder: str = Field(
        "unet", description="unet, the paper's, or any backbone whose stages halve the size."
    )
    output_stride: Literal[16, 32] = Field(
        16, description="16 for the encoder unet, 32 for most others."
    )
    weights: Literal["imagenet", "none"] = Field(
        "none", description="imagenet: for a timm encoder; the paper trains from scratch."
    )
    norm: Literal["train", "frozen_affine", "frozen"] = Field(
        "train", description="The encoder's batch norm, where it has any; train: ordinary."
    )
    aux: bool = Field(True, description="A 1x1 classifier at 1/4 of the size: our addition.")

    @model_validator(mode="after")
    def _start_is_said(self) -> "UNetConfig":
        """No other encoder starts at random unless its spec says so."""
        if self.encoder != "unet" and "weights" not in self.model_fields_set:
            raise ValueError(f"weights: missing, expected imagenet or none with {self.encoder!r}")
        return self


class UNetEncoder(PlainEncoder):
    """The contracting path: five stages, each two 3x3 convolutions, with max pools between them."""

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__(name, output_stride, channels=WIDTHS, reductions=(1, 2, 4, 8, 16))
        self.stages = nn.ModuleList(_double_conv(*pair) for pair in pairwise((3, *WIDTHS)))
        self.pool = nn.MaxPool2d(2)
        init_he(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> five stages, (B, C, h, w)."""
        first, *others = self.stages
        features = [first(images)]
        for stage in others:
            features.append(stage(self.pool(features[-1])))
        return tuple(features)


class UNetDecoder(Decoder):
    """U-Net: contracting and expanding path, joined at every size.

    The expanding path: to the width and size of each shallower stage, join, two convolutions.
    """

    Config: ClassVar[type[SegmenterConfig]] = UNetConfig
    demands: ClassVar[Demands] = Demands(halving=True)

    def __init__(self, config: UNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        pairs = list(pairwise(encoder.channels[::-1]))
        self.dropout = nn.Dropout(0.5)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(deep, skip, 2, 2) for deep, skip in pairs)
        self.joins = nn.ModuleList(_double_conv(2 * skip, skip) for _, skip in pairs)
        self.classifier = nn.Conv2d(encoder.channels[0], num_classes, 1)
        self.aux_stage = encoder.stage_at(max(4, 2 * encoder.reductions[0]))
        aux_channels = encoder.channels[self.aux_stage]
        self.aux = nn.Conv2d(aux_channels, num_classes, 1) if config.aux else None
        init_he(self)

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at the shallowest stage's size, auxiliary ones at 1/4]."""
        expanded = [self.dropout(features[-1])]
        for up, join, skip in zip(self.ups, self.joins, features[-2::-1], strict=True):
            expanded.append(join(_joined(skip, up(expanded[-1]))))
        logits = [self.classifier(expanded[-1])]
        if self.aux is not None:
            logits.append(self.aux(expanded[-1 - self.aux_stage]))
        return logits, {}


def _joined(skip: Tensor, features: Tensor) -> Tensor:
    return cat([skip, resize_to(features, skip)], dim=1)


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )
