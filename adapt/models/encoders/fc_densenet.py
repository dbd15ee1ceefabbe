"""FC-DenseNet's dense block and its way down (Jegou et al., CVPR Workshops 2017).

A layer is BN-ReLU-3x3-dropout without a bottleneck; a transition down keeps the number of maps.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from adapt.models.encoders.encoder import PlainEncoder
from adapt.models.layers import BatchNorm, init_he_uniform

STEM, DROPOUT = 48, 0.2


class Shape(NamedTuple):
    """New maps of a layer; layers of each block down, of the bottleneck, of each block up."""

    growth: int
    down: tuple[int, ...]
    bottleneck: int
    up: tuple[int, ...]


SHAPES = {
    "fc_densenet56": Shape(12, (4,) * 5, 4, (4,) * 5),
    "fc_densenet67": Shape(16, (5,) * 5, 5, (5,) * 5),
    "fc_densenet103": Shape(16, (4, 5, 7, 10, 12), 15, (12, 10, 7, 5, 4)),
}


class DenseBlock(nn.Module):
    """Layers of BN-ReLU-3x3-dropout, each on all maps before it: (B, C, h, w) -> (B, n g, h, w).

    Only the maps made here come out.
    """

    def __init__(self, in_channels: int, growth: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _bn_relu_conv(in_channels + number * growth, growth, kernel_size=3)
            for number in range(count)
        )

    def forward(self, features: Tensor) -> Tensor:
        made: list[Tensor] = []
        for layer in self.layers:
            made.append(layer(torch.cat([features, *made], dim=1)))
        return torch.cat(made, dim=1)


class _Blocks(nn.ModuleList):
    """Blocks that a call gives as a list: files have this name, and the contract a method of it."""

    def forward(self) -> list[nn.Module]:
        """The blocks, shallow to deep."""
        return list(self)


class FCDenseNetEncoder(PlainEncoder):
    """The way down. Stages: the stack of each block, then the bottleneck's new maps."""

    def __init__(self, name: str, output_stride: int) -> None:
        shape = SHAPES[name]
        stacks = [STEM]
        for count in shape.down:
            stacks.append(stacks[-1] + count * shape.growth)
        channels = (*stacks[1:], shape.bottleneck * shape.growth)
        super().__init__(name, output_stride, channels, tuple(2**n for n in range(len(channels))))
        self.stem = nn.Conv2d(3, STEM, 3, padding=1)
        counts = (*shape.down, shape.bottleneck)
        self._modules["blocks"] = _Blocks(
            DenseBlock(stack, shape.growth, count)
            for stack, count in zip(stacks, counts, strict=True)
        )
        self.transitions = nn.ModuleList(
            _bn_relu_conv(stack, stack, kernel_size=1) for stack in stacks[1:]
        )
        self.pool = nn.MaxPool2d(2)
        init_he_uniform(self)

    @property
    def blocks(self) -> _Blocks:
        """The dense blocks."""
        blocks = self._modules["blocks"]
        assert isinstance(blocks, _Blocks)
        return blocks

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> five stacks and the bottleneck's maps, (B, C, h, w)."""
        features, stages = self.stem(images), []
        *blocks, bottleneck = self.blocks
        for block, transition in zip(blocks, self.transitions, strict=True):
            stages.append(torch.cat([features, block(features)], dim=1))
            features = self.pool(transition(stages[-1]))
        return (*stages, bottleneck(features))


def _bn_relu_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        BatchNorm(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.Dropout(DROPOUT),
    )
