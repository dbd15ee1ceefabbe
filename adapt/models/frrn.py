"""FRRN (Pohlen, Hermans, Mathias & Leibe, Full-Resolution Residual Networks ..., CVPR 2017).

Two streams: a residual stream of 32 channels that never leaves the full resolution, and a pooling
stream that goes down and up again. A full-resolution residual unit joins the pooled residual stream
to the pooling one, and adds what it found to the residual stream; units are chained, each reads the
pooling stream of the one before. The encoder `frrn_a` or `frrn_b` is the way down, the decoder the
way up. Trained from scratch, on the hardest pixels of each image.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Prediction
from adapt.losses import bootstrapped_cross_entropy
from adapt.models.demands import Demands
from adapt.models.encoder import Encoder, PlainEncoder
from adapt.models.layers import conv_bn, conv_bn_relu, resize_to
from adapt.models.segmenter import AuxiliaryConfig, Decoder, Heads, Stages, WeightedLosses

BASE, LANES = 48, 32
DOWN = {
    "frrn_a": ((3, 96), (4, 192), (2, 384), (2, 384)),
    "frrn_b": ((3, 96), (4, 192), (2, 384), (2, 384), (2, 384)),
}
UP = {
    "frrn_a": ((2, 192), (2, 192), (2, 96)),
    "frrn_b": ((2, 192), (2, 192), (2, 192), (2, 96)),
}
"""Number and width of the units after each pooling, and after each unpooling."""

DEMANDS = Demands(encoders=tuple(DOWN))


class FRRNConfig(AuxiliaryConfig):
    """FRRN's own choices."""

    architecture: Literal["frrn"] = Field(
        "frrn", description="A full-resolution and a pooling stream (CVPR 2017)."
    )
    encoder: Literal["frrn_a", "frrn_b"] = Field(
        "frrn_a", description="frrn_a, or frrn_b, one pooling deeper, with output_stride: 32."
    )
    output_stride: Literal[16, 32] = Field(16, description="16 for frrn_a, 32 for frrn_b.")
    weights: Literal["none"] = Field("none", description="The paper trains from scratch.")
    norm: Literal["train", "frozen_affine", "frozen"] = Field(
        "train", description="The encoder's batch norm; train: ordinary (the paper)."
    )
    aux: bool = Field(
        True, description="A 1x1 classifier on the way up at 1/4 of the size: our addition."
    )
    hardest_pixels: int = Field(
        512 * 64, ge=1, description="Pixels of each image that the loss counts, the worst ones."
    )


class ResidualUnit(nn.Module):
    """x + conv-BN-ReLU-conv-BN(x), and no ReLU after the sum; a 1x1 where widths differ."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_bn_relu(in_channels, channels), *conv_bn(channels, channels)
        )
        differs = in_channels != channels
        self.shortcut = (
            nn.Conv2d(in_channels, channels, 1, bias=False) if differs else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.shortcut(features) + self.branch(features)


class FullResolutionResidualUnit(nn.Module):
    """Pooling stream (B, C, h, w) and residual stream (B, 32, H, W) -> both, one unit on."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *conv_bn_relu(in_channels + LANES, channels), *conv_bn_relu(channels, channels)
        )
        self.to_residual = nn.Conv2d(channels, LANES, 1)

    def forward(self, pooling: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream is brought to the pooling one's size by max pooling, and what is
        added to it back by repetition."""
        size_hw = pooling.shape[-2:]
        pooled = F.adaptive_max_pool2d(residual, size_hw)
        pooling = self.block(torch.cat([pooling, pooled], dim=1))
        added = F.interpolate(self.to_residual(pooling), size=residual.shape[-2:], mode="nearest")
        return pooling, residual + added


class Level(nn.ModuleList):
    """Chained units at one size of the pooling stream, all but the first of one width."""

    def __init__(self, in_channels: int, count: int, channels: int) -> None:
        inputs = [in_channels] + [channels] * (count - 1)
        super().__init__(FullResolutionResidualUnit(one, channels) for one in inputs)

    def forward(self, pooling: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, a level on."""
        for unit in self:
            pooling, residual = unit(pooling, residual)
        return pooling, residual


def _levels(in_channels: int, rows: Sequence[tuple[int, int]]) -> nn.ModuleList:
    inputs = [in_channels, *(channels for _, channels in rows)]
    return nn.ModuleList(Level(one, *row) for one, row in zip(inputs, rows, strict=False))


class FRRNEncoder(PlainEncoder):
    """The way down. Stages: the residual stream, then the pooling stream after each level."""

    def __init__(self, name: str, output_stride: int) -> None:
        widths = [channels for _, channels in DOWN[name]]
        reductions = tuple(2**level for level in range(len(widths) + 1))
        super().__init__(name, output_stride, (LANES, *widths), reductions)
        self.stem = nn.Sequential(
            *conv_bn_relu(3, BASE, kernel_size=5),
            *(ResidualUnit(BASE, BASE) for _ in range(3)),
        )
        self.split = conv_bn(BASE, LANES, kernel_size=1)
        self.pool = nn.MaxPool2d(2)
        self.levels = _levels(BASE, DOWN[name])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> residual stream (B, 32, H, W), pooling streams (B, C, h, w)."""
        pooling = self.stem(images)
        residual, stages = self.split(pooling), []
        for level in self.levels:
            pooling = self.pool(pooling)
            pooling, residual = level(pooling, residual)
            stages.append(pooling)
        return (residual, *stages)


class FRRNDecoder(Decoder):
    """The way up, the streams joined, three residual units, classes."""

    def __init__(self, config: FRRNConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.hardest_pixels = config.hardest_pixels
        self.levels = _levels(encoder.channels[-1], UP[encoder.name])
        last = UP[encoder.name][-1][1]
        self.merge = nn.Sequential(
            ResidualUnit(last + LANES, BASE), *(ResidualUnit(BASE, BASE) for _ in range(2))
        )
        self.classifier = nn.Conv2d(BASE, num_classes, 1)
        quarter = UP[encoder.name][-2][1]
        self.aux = nn.Conv2d(quarter, num_classes, 1) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Streams -> [main logits at full size, auxiliary ones at 1/4]."""
        residual, *skipped, pooling = features
        expanded = []
        for level, shallower in zip(self.levels, skipped[::-1], strict=True):
            pooling = resize_to(pooling, shallower)
            pooling, residual = level(pooling, residual)
            expanded.append(pooling)
        joined = torch.cat([resize_to(pooling, residual), residual], dim=1)
        logits = [self.classifier(self.merge(joined))]
        if self.aux is not None:
            logits.append(self.aux(expanded[-2]))
        return logits, {}

    def segmentation_losses(self, prediction: Prediction, labels: Tensor) -> WeightedLosses:
        """Bootstrapped cross entropy of each head: of its hardest pixels alone."""
        named = zip(self.head_names, self.head_weights, prediction.logits, strict=True)
        return {
            name: (weight, bootstrapped_cross_entropy(logits, labels, self.hardest_pixels))
            for name, weight, logits in named
        }
