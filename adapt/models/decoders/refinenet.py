"""RefineNet (Lin, Milan, Shen & Reid, Multi-Path Refinement Networks ..., CVPR 2017).

Four cascaded blocks, deepest stage first. Each adapts its inputs by residual units, fuses them at
the larger size, adds what a chain of poolings found, and refines the sum. No batch norm: a residual
unit activates its branch and never what it passes on. A chain's every link is added, and pools
before it convolves, as in the paper; the authors' later program does it the other way round.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.demands import PYRAMID, QUARTERS, Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

DEEP_WIDTH, WIDTH, CHAIN_LENGTH = 512, 256, 4


class RefineNetConfig(AuxiliaryConfig):
    """RefineNet's own choices."""

    architecture: Literal["refinenet"] = Field(
        "refinenet", description="A cascade that refines from deep to shallow (CVPR 2017)."
    )
    encoder: str = Field("resnet101.tv_in1k", description="A backbone; the paper's is ResNet-101.")
    output_stride: Literal[32] = Field(32, description="Reads stages from 1/4 to 1/32.")
    aux: bool = Field(
        True, description="A 3x3 classifier on the block before the last, at 1/8: our addition."
    )


class ResidualConvUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))): (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv3(channels, channels, bias=True)
        self.conv2 = _conv3(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv2(relu(self.conv1(relu(features))))


class ChainedResidualPooling(nn.Module):
    """ReLU(x) plus every link of a chain of 5x5 max pools and 3x3 convolutions, of one size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.convs = nn.ModuleList(_conv3(channels, channels) for _ in range(CHAIN_LENGTH))

    def forward(self, features: Tensor) -> Tensor:
        link = total = relu(features)
        for conv in self.convs:
            link = conv(self.pool(link))
            total = total + link
        return total


class RefineNetBlock(nn.Module):
    """An encoder's stage and, but for the deepest, the block before -> refined features."""

    def __init__(self, stage_channels: int, channels: int, deeper_channels: int | None) -> None:
        super().__init__()
        self.reduce = _conv3(stage_channels, channels)
        self.adapt = nn.Sequential(*(ResidualConvUnit(channels) for _ in range(2)))
        if deeper_channels is not None:
            self.fuse_stage = _conv3(channels, channels)
            self.fuse_deeper = _conv3(deeper_channels, channels)
        self.pooling = ChainedResidualPooling(channels)
        self.refine = nn.Sequential(*(ResidualConvUnit(channels) for _ in range(3)))

    def forward(self, stage: Tensor, deeper: Tensor | None) -> Tensor:
        """(B, C, h, w), (B, C', h / 2, w / 2) -> (B, `channels`, h, w)."""
        features = self.adapt(self.reduce(stage))
        if deeper is not None:
            features = self.fuse_stage(features)
            features = features + resize_to(self.fuse_deeper(deeper), features)
        return self.refine(self.pooling(features))


class RefineNetDecoder(Decoder):
    """RefineNet: a cascade of residual refinements, deep to shallow.

    Four blocks and a 3x3 classifier at 1/4 of the size.
    """

    Config: ClassVar[type[SegmenterConfig]] = RefineNetConfig
    demands: ClassVar[Demands] = PYRAMID

    def __init__(self, config: RefineNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.stages = [encoder.stage_at(reduction) for reduction in QUARTERS[::-1]]
        widths = [DEEP_WIDTH, WIDTH, WIDTH, WIDTH]
        self.blocks = nn.ModuleList(
            RefineNetBlock(encoder.channels[stage], channels, deeper)
            for stage, channels, deeper in zip(
                self.stages, widths, [None, *widths[:-1]], strict=True
            )
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = _conv3(WIDTH, num_classes, bias=True)
        self.aux = _conv3(WIDTH, num_classes, bias=True) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at 1/4 of the size, auxiliary ones at 1/8]."""
        dropped = (self.dropout, self.dropout, nn.Identity(), nn.Identity())
        refined: list[Tensor | None] = [None]
        for block, stage, drop in zip(self.blocks, self.stages, dropped, strict=True):
            refined.append(block(drop(features[stage]), refined[-1]))
        logits = [self.classifier(self.dropout(refined[-1]))]
        if self.aux is not None:
            logits.append(self.aux(refined[-2]))
        return logits, {}


def _conv3(in_channels: int, out_channels: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
