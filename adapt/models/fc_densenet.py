"""FC-DenseNet, the One Hundred Layers Tiramisu (Jegou et al., CVPR Workshops 2017).

Dense blocks on the way down and up, joined by skips. On the way up only the maps that the last
block made anew go on, not its input, or the maps would grow without bound; the last block keeps its
whole stack. The encoders `fc_densenet56`, `fc_densenet67` and `fc_densenet103` are the way down
with the bottleneck, the decoder the way up. Trained from scratch, from He's uniform start.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.demands import Demands
from adapt.models.encoder import Encoder, PlainEncoder
from adapt.models.layers import BatchNorm, resize_to
from adapt.models.segmenter import AuxiliaryConfig, Decoder, Heads, Stages

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
DEMANDS = Demands(encoders=tuple(SHAPES))


class FCDenseNetConfig(AuxiliaryConfig):
    """FC-DenseNet's own choices."""

    architecture: Literal["fc_densenet"] = Field(
        "fc_densenet", description="Dense blocks down and up (CVPR Workshops 2017)."
    )
    encoder: Literal["fc_densenet56", "fc_densenet67", "fc_densenet103"] = Field(
        "fc_densenet103", description="The number counts layers."
    )
    output_stride: Literal[32] = Field(32, description="Five transitions down.")
    weights: Literal["none"] = Field("none", description="The paper trains from scratch.")
    norm: Literal["train", "frozen_affine", "frozen"] = Field(
        "train", description="The encoder's batch norm; train: ordinary (the paper)."
    )
    aux: bool = Field(
        True, description="A 1x1 classifier on the way up at 1/4 of the size: our addition."
    )


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
        self.blocks = nn.ModuleList(
            DenseBlock(stack, shape.growth, count)
            for stack, count in zip(stacks, counts, strict=True)
        )
        self.transitions = nn.ModuleList(
            _bn_relu_conv(stack, stack, kernel_size=1) for stack in stacks[1:]
        )
        self.pool = nn.MaxPool2d(2)
        _init_he_uniform(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> five stacks and the bottleneck's maps, (B, C, h, w)."""
        features, stages = self.stem(images), []
        *blocks, bottleneck = self.blocks
        for block, transition in zip(blocks, self.transitions, strict=True):
            stages.append(torch.cat([features, block(features)], dim=1))
            features = self.pool(transition(stages[-1]))
        return (*stages, bottleneck(features))


class FCDenseNetDecoder(Decoder):
    """The way up: 3x3 transposed convolutions on new maps alone, joins, dense blocks, classes."""

    def __init__(self, config: FCDenseNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        growth, up = SHAPES[encoder.name].growth, SHAPES[encoder.name].up
        made = [encoder.channels[-1], *(count * growth for count in up)]
        stacks = [skip + new for skip, new in zip(encoder.channels[-2::-1], made, strict=False)]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(new, new, 3, 2, 1, 1) for new in made[:-1])
        self.blocks = nn.ModuleList(
            DenseBlock(stack, growth, count) for stack, count in zip(stacks, up, strict=True)
        )
        self.classifier = nn.Conv2d(stacks[-1] + made[-1], num_classes, 1)
        self.aux = nn.Conv2d(made[-3], num_classes, 1) if config.aux else None
        _init_he_uniform(self)

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at full size, auxiliary ones at 1/4]."""
        *skips, bottleneck = features
        made = [bottleneck]
        for up, block, skip in zip(self.ups, self.blocks, skips[::-1], strict=True):
            stack = torch.cat([skip, resize_to(up(made[-1]), skip)], dim=1)
            made.append(block(stack))
        logits = [self.classifier(torch.cat([stack, made[-1]], dim=1))]
        if self.aux is not None:
            logits.append(self.aux(made[-3]))
        return logits, {}


def _bn_relu_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        BatchNorm(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.Dropout(DROPOUT),
    )


def _init_he_uniform(module: nn.Module) -> None:
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
