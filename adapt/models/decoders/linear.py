"""The linear head of DINOv2's dense evaluations (Oquab et al., DINOv2: Learning Robust Visual
Features without Supervision, TMLR 2024).

A batch norm and a 1x1 convolution turn each token into logits, which are enlarged bilinearly: what
the features themselves know. `stages: all` concatenates the tokens of all stages, as the paper's
`+ms` does with its last four blocks; ours are at quarter points.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, EqualStridesConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import BatchNorm, init_convs
from adapt.models.segmenter import Decoder, Heads, Stages

TOKENS = Demands(equal_strides=True)
"""Of decoders that read a vision transformer's own stages."""


class LinearConfig(EqualStridesConfig, AuxiliaryConfig):
    """The linear head's own choices."""

    architecture: Literal["linear"] = Field(
        "linear", description="Batch norm and a 1x1 convolution on tokens (DINOv2, TMLR 2024)."
    )
    encoder: str = Field(
        "vit_base_patch14_dinov2", description="A vision transformer; the paper's are DINOv2's."
    )
    stages: Literal["last", "all"] = Field(
        "last", description="last: the deepest tokens; all: those of four stages, concatenated."
    )
    aux: bool = Field(True, description="The same on the last stage but one: our addition.")


class LinearDecoder(Decoder):
    """Linear head: batch norm and one linear map of each token.

    On the deepest stage or on all of them; an auxiliary head on the last but one.
    """

    Config: ClassVar[type[SegmenterConfig]] = LinearConfig
    demands: ClassVar[Demands] = TOKENS

    def __init__(self, config: LinearConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.first = 0 if config.stages == "all" else len(encoder.channels) - 1
        self.main = linear_head(sum(encoder.channels[self.first :]), num_classes)
        self.aux = linear_head(encoder.channels[-2], num_classes) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits, auxiliary ones], one a token."""
        logits = [self.main(torch.cat(features[self.first :], dim=1))]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {}


def linear_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """Batch norm and 1x1 to classes, which starts at N(0, 0.01) and zero."""
    classifier = nn.Conv2d(in_channels, num_classes, 1)
    init_convs(classifier)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(BatchNorm(in_channels), classifier)
