"""FRRN's units and its way down (Pohlen, Hermans, Mathias & Leibe, CVPR 2017).

A full-resolution residual unit joins the pooled residual stream to the pooling one, and adds what
it found to the residual stream; units are chained, each reads the pooling stream of the one before.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models.encoders.encoder import PlainEncoder
from adapt.models.layers import conv_bn, conv_bn_relu, init_he_uniform, max_pool_to

BASE, LANES = 48, 32
DOWN = {
    "frrn_a": ((3, 96), (4, 192), (2, 384), (2, 384)),
    "frrn_b": ((3, 96), (4, 192), (2, 384), (2, 384), (2, 384)),
}
"""Number and width of the units after each pooling."""


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
        pooled = max_pool_to(residual, pooling)
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


def levels(in_channels: int, rows: Sequence[tuple[int, int]]) -> nn.ModuleList:
    """A `Level` for each row of number and width of units."""
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
        self.levels = levels(BASE, DOWN[name])
        init_he_uniform(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> residual stream (B, 32, H, W), pooling streams (B, C, h, w)."""
        pooling = self.stem(images)
        residual, stages = self.split(pooling), []
        for level in self.levels:
            pooling = self.pool(pooling)
            pooling, residual = level(pooling, residual)
            stages.append(pooling)
        return (residual, *stages)
