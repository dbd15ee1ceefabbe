"""DeepLabV2 (Chen et al., TPAMI 2018), auxiliary head as in AdaptSegNet (Tsai et al., CVPR 2018).

Stages in, logits of the main and the auxiliary head out, at the encoder's output stride. A head
(ASPP) is the plain sum of dilated convolutions straight to classes. Both heads are resized with
aligned corners: the published checkpoint of AdaptSegNet loses 1.5 mIoU without.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import dilated_conv
from adapt.models.segmenter import Decoder, Heads, Stages

RATES = (6, 12, 18, 24)


class DeepLabV2Config(AuxiliaryConfig):
    """DeepLabV2's own choices."""

    described: ClassVar[tuple[str, ...]] = (*AuxiliaryConfig.described, "aspp_branches")

    architecture: Literal["deeplab_v2"] = Field(
        "deeplab_v2", description="Dilated encoder, sums of dilated convolutions (TPAMI 2018)."
    )
    aspp_branches: Literal[2, 4] = Field(
        4,
        description="Branches of the ASPP that are summed: 4 as in the paper and ADVENT; 2 as in "
        "AdaptSegNet's program, whose other two branches exist but never run.",
    )
    aux: bool = Field(
        True,
        description="An auxiliary head on the last stage but one (the programs' multi-level, a "
        "ResNet's layer3). AdaptSegNet's VGG has none; on caffe_vgg16 it would read conv5_3, which "
        "is our addition.",
    )
    weight_aux: float = Field(
        0.1,
        ge=0,
        description="Weight of the auxiliary cross entropy (AdaptSegNet and ADVENT: 0.1).",
    )


class AtrousSpatialPyramid(nn.Module):
    """Sum of dilated 3x3 convolutions from features to classes: (B, C, h, w) -> (B, K, h, w)."""

    def __init__(self, in_channels: int, num_classes: int, summed_branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            dilated_conv(in_channels, num_classes, rate) for rate in RATES
        )
        self.summed_branches = summed_branches
        for unused in self.branches[summed_branches:]:
            unused.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> logits (B, K, h, w)."""
        first, *others = self.branches[: self.summed_branches]
        logits = first(features)
        for branch in others:
            logits = logits + branch(features)
        return logits


class DeepLabV2Decoder(Decoder):
    """DeepLabV2: sums of dilated convolutions: the network of the UDA papers.

    Main head on the deepest stage, auxiliary head on the one before it.
    """

    Config: ClassVar[type[SegmenterConfig]] = DeepLabV2Config
    align_corners: ClassVar[bool] = True

    def __init__(self, config: DeepLabV2Config, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.heads = nn.ModuleList(
            AtrousSpatialPyramid(encoder.channels[-1 - depth], num_classes, config.aspp_branches)
            for depth in range(len(self.head_names))
        )

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages, shallow to deep -> [main logits, auxiliary logits], no side outputs."""
        deepest_first = features[::-1]
        logits = [head(stage) for head, stage in zip(self.heads, deepest_first, strict=False)]
        return logits, {}
