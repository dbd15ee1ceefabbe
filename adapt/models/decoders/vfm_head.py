"""VFM-UDA's head (Englert et al., Exploring the Benefits of Vision Foundation Models for
Unsupervised Domain Adaptation, CVPR Workshops 2024): light, because the encoder knows enough.

Two transposed convolutions double the deepest tokens' grid twice and halve their channels twice, a
3x3 refines them, a 1x1 without bias classifies. Layer norms, so that small batches are no matter;
GELU after the first transposed convolution alone, as in the program.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, EqualStridesConfig, SegmenterConfig
from adapt.models.decoders.linear import TOKENS
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.segmenter import Decoder, Heads, Stages

CLASSIFIER_STD = 0.1


class VFMHeadConfig(EqualStridesConfig, AuxiliaryConfig):
    """VFM-UDA's head's own choices."""

    architecture: Literal["vfm_head"] = Field(
        "vfm_head", description="Transposed convolutions on tokens (VFM-UDA, 2024)."
    )
    encoder: str = Field(
        "vit_base_patch14_dinov2",
        description="A vision transformer; the paper's are DINOv2's, its best "
        "vit_large_patch14_dinov2.",
    )
    aux: bool = Field(True, description="A 1x1 classifier on the last stage but one: our addition.")


class VFMHeadDecoder(Decoder):
    """VFM head: tokens enlarged four times by transposed convolutions.

    On the deepest stage; an auxiliary 1x1 classifier on the last but one.
    """

    Config: ClassVar[type[SegmenterConfig]] = VFMHeadConfig
    demands: ClassVar[Demands] = TOKENS

    def __init__(self, config: VFMHeadConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        channels = encoder.channels[-1]
        self.upscale = upscaling(channels)
        self.classifier = nn.Conv2d(channels // 4, num_classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=CLASSIFIER_STD)
        self.aux = nn.Conv2d(encoder.channels[-2], num_classes, 1) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits, 4 x 4 a token, auxiliary ones, one a token]."""
        logits = [self.classifier(self.upscale(features[-1]))]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {}


def upscaling(channels: int) -> nn.Sequential:
    """(B, C, h, w) -> (B, C // 4, 4 h, 4 w)."""
    from timm.layers.norm import LayerNorm2d  # imports timm: seconds

    half, quarter = channels // 2, channels // 4
    return nn.Sequential(
        nn.ConvTranspose2d(channels, half, 2, 2, bias=False),
        LayerNorm2d(half),
        nn.GELU(),
        nn.ConvTranspose2d(half, quarter, 2, 2, bias=False),
        LayerNorm2d(quarter),
        nn.Conv2d(quarter, quarter, 3, padding=1, bias=False),
        LayerNorm2d(quarter),
    )
