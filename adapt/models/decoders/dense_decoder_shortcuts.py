"""Dense Decoder Shortcut Connections (Bilinski & Prisacariu, CVPR 2018).

An encoder's four stages are adapted; from deep to shallow, each decoder level fuses its own with
the outputs of all deeper levels, not of the next one alone, and generates semantic features from
them in one pass. No program was released and the abstract gives no widths: 256 channels on all
levels, and the inside of the blocks, are our reading.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.demands import PYRAMID, QUARTERS, Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import BatchNorm, conv_bn, conv_bn_relu, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

CARDINALITY, CHAIN_LENGTH = 32, 4


class DenseDecoderShortcutsConfig(AuxiliaryConfig):
    """Our reading's choices."""

    architecture: Literal["dense_decoder_shortcuts"] = Field(
        "dense_decoder_shortcuts", description="Each level reads all deeper ones (CVPR 2018)."
    )
    encoder: str = Field(
        "resnext101_32x8d.tv_in1k", description="A backbone; the paper's is a ResNeXt-101."
    )
    output_stride: Literal[32] = Field(32, description="Reads stages from 1/4 to 1/32.")
    width: int = Field(
        256, ge=64, multiple_of=64, description="Channels of all levels (not published)."
    )
    aux: bool = Field(True, description="A 1x1 classifier on the level at 1/8: our addition.")


class ResNeXtBottleneck(nn.Module):
    """ReLU(x + 1x1, grouped 3x3, 1x1): (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        grouped = nn.Conv2d(inner, inner, 3, padding=1, groups=CARDINALITY, bias=False)
        self.branch = nn.Sequential(
            conv_bn_relu(channels, inner, 1),
            nn.Sequential(grouped, BatchNorm(inner), nn.ReLU(inplace=True)),
            conv_bn(inner, channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return relu(features + self.branch(features))


class FeatureGeneration(nn.Module):
    """Semantic features with context: a chain of 3x3 convolutions and 5x5 max pools, each link
    tapped, the taps joined and refined. (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        links, tap = range(CHAIN_LENGTH), channels // CHAIN_LENGTH
        self.chain = nn.ModuleList(
            nn.Sequential(conv_bn_relu(channels, channels), nn.MaxPool2d(5, 1, 2)) for _ in links
        )
        self.taps = nn.ModuleList(conv_bn_relu(channels, tap) for _ in links)
        self.refine = _refined(channels, channels, num_bottlenecks=4)

    def forward(self, features: Tensor) -> Tensor:
        tapped = []
        for link, tap in zip(self.chain, self.taps, strict=True):
            features = link(features)
            tapped.append(tap(features))
        return self.refine(torch.cat(tapped, dim=1))


class DecoderLevel(nn.Module):
    """An encoder's stage and the outputs of all deeper levels -> this level's output."""

    def __init__(self, stage_channels: int, channels: int, num_deeper: int) -> None:
        super().__init__()
        self.adapt = _refined(stage_channels, channels, num_bottlenecks=3)
        fused = 1 + num_deeper if num_deeper else 0
        self.fuse = nn.ModuleList(conv_bn(channels, channels) for _ in range(fused))
        self.generate = FeatureGeneration(channels)

    def forward(self, stage: Tensor, deeper: list[Tensor]) -> Tensor:
        """(B, C, h, w), deeper outputs of any size -> (B, `channels`, h, w)."""
        features = own = self.adapt(stage)
        if deeper:
            features = self.fuse[0](own)
            for project, one in zip(self.fuse[1:], deeper, strict=True):
                features = features + resize_to(project(one), own)
            features = relu(features)
        return self.generate(features)


class DenseDecoderShortcutsDecoder(Decoder):
    """Dense decoder shortcuts: each decoder level reads all deeper ones.

    Four levels, deepest first, and a 1x1 classifier at 1/4 of the size.
    """

    Config: ClassVar[type[SegmenterConfig]] = DenseDecoderShortcutsConfig
    demands: ClassVar[Demands] = PYRAMID

    def __init__(
        self, config: DenseDecoderShortcutsConfig, encoder: Encoder, num_classes: int
    ) -> None:
        super().__init__(config.heads())
        self.stages = [encoder.stage_at(reduction) for reduction in QUARTERS[::-1]]
        self.levels = nn.ModuleList(
            DecoderLevel(encoder.channels[stage], config.width, num_deeper)
            for num_deeper, stage in enumerate(self.stages)
        )
        self.classifier = nn.Conv2d(config.width, num_classes, 1)
        self.aux = nn.Conv2d(config.width, num_classes, 1) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at 1/4 of the size, auxiliary ones at 1/8]."""
        outputs: list[Tensor] = []
        for level, stage in zip(self.levels, self.stages, strict=True):
            outputs.append(level(features[stage], outputs))
        logits = [self.classifier(outputs[-1])]
        if self.aux is not None:
            logits.append(self.aux(outputs[-2]))
        return logits, {}


def _refined(in_channels: int, channels: int, num_bottlenecks: int) -> nn.Sequential:
    """3x3 convolution, ResNeXt bottlenecks, 3x3 convolution."""
    bottlenecks = (ResNeXtBottleneck(channels) for _ in range(num_bottlenecks))
    return nn.Sequential(
        conv_bn_relu(in_channels, channels), *bottlenecks, conv_bn_relu(channels, channels)
    )
