"""SegFormer (Xie, Wang, Yu, Anandkumar, Alvarez & Luo, SegFormer: Simple and Efficient Design ...,
NeurIPS 2021).

An encoder of transformer blocks (MiT, `mit_b0` to `mit_b5`) sees so far that the head needs no
context: every stage is projected to one width and brought to a quarter of the size, a 1x1
convolution joins them, another classifies. Stages are projected before they are enlarged, as in the
program; both are linear and could change places.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import FCNHead, conv_bn_relu, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

SHALLOWEST = 4
WIDTHS, USUAL_WIDTH = {"mit_b0": 256, "mit_b1": 256}, 768
"""Channels of the head by encoder, as in the paper."""


class TransformerStagesConfig(AuxiliaryConfig):
    """Keys of architectures whose papers join the stages of MiT."""

    encoder: str = Field(
        "mit_b5",
        description="mit_b0 to mit_b5, the papers', whose weights come from weights_uri, or a "
        "backbone with a stage at 1/4.",
    )
    output_stride: Literal[8, 16, 32] = Field(32, description="MiT has 32 alone.")
    aux: bool = Field(
        True, description="An auxiliary head on the last stage but one: our addition."
    )


class SegFormerConfig(TransformerStagesConfig):
    """SegFormer's own choices."""

    architecture: Literal["segformer"] = Field(
        "segformer", description="Transformer stages joined by 1x1 convolutions (NeurIPS 2021)."
    )
    width: int | None = Field(
        None,
        ge=1,
        description="Channels of the head; null: the paper's, 256 on mit_b0 and mit_b1, else 768.",
    )


class StageProjections(nn.Module):
    """The stages from a quarter of the size on, each by a 1x1 convolution and enlarged to it, the
    deepest first: stages -> (B, levels * `width`, h, w)."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        self.first = encoder.stage_at(SHALLOWEST)
        own = encoder.channels[self.first :]
        self.projections = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in own)
        self.out_channels = len(own) * width

    def forward(self, features: Stages) -> Tensor:
        stages = features[self.first :]
        pairs = zip(self.projections, stages, strict=True)
        projected = [resize_to(projection(stage), stages[0]) for projection, stage in pairs]
        return torch.cat(projected[::-1], dim=1)


class SegFormerDecoder(Decoder):
    """SegFormer: stages projected, enlarged and joined by 1x1.

    All stages from 1/4 on, of equal width; an auxiliary head on the last but one.
    """

    Config: ClassVar[type[SegmenterConfig]] = SegFormerConfig
    demands: ClassVar[Demands] = Demands(reductions=(SHALLOWEST,))

    def __init__(self, config: SegFormerConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        width = config.width or WIDTHS.get(encoder.name, USUAL_WIDTH)
        self.stages = StageProjections(encoder, width)
        self.join = conv_bn_relu(self.stages.out_channels, width, 1)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))
        self.aux = FCNHead(encoder.channels[-2], num_classes) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits at 1/4 of the size, auxiliary ones at the last stage but one]."""
        logits = [self.classifier(self.join(self.stages(features)))]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {}
