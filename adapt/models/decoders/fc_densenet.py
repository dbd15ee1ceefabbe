"""FC-DenseNet, the One Hundred Layers Tiramisu (Jegou et al., CVPR Workshops 2017).

Dense blocks on the way down and up, joined by skips. On the way up only the maps that the last
block made anew go on, not its input, or the maps would grow without bound; the last block keeps its
whole stack. The encoders `fc_densenet56`, `fc_densenet67` and `fc_densenet103` are the way down
with the bottleneck, the decoder the way up. Trained from scratch, from He's uniform start.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import ScratchConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.encoders.fc_densenet import SHAPES, DenseBlock
from adapt.models.layers import init_he_uniform, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages


class FCDenseNetConfig(ScratchConfig):
    """FC-DenseNet's own choices."""

    architecture: Literal["fc_densenet"] = Field(
        "fc_densenet", description="Dense blocks down and up (CVPR Workshops 2017)."
    )
    encoder: Literal["fc_densenet56", "fc_densenet67", "fc_densenet103"] = Field(
        "fc_densenet103", description="The number counts layers."
    )
    output_stride: Literal[32] = Field(32, description="Five transitions down.")
    aux: bool = Field(
        True, description="A 1x1 classifier on the way up at 1/4 of the size: our addition."
    )


class FCDenseNetDecoder(Decoder):
    """FC-DenseNet: dense blocks down and up, the tiramisu.

    The way up: 3x3 transposed convolutions on new maps alone, joins, dense blocks, classes.
    """

    Config: ClassVar[type[SegmenterConfig]] = FCDenseNetConfig
    demands: ClassVar[Demands] = Demands(encoders=tuple(SHAPES))

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
        init_he_uniform(self)

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
