"""DenseASPP (Yang, Yu, Zhang, Li & Yang, DenseASPP for Semantic Segmentation ..., CVPR 2018).

Five dilated convolutions of growing rate, each on the features and on all outputs before it, so
that rates add up to a dense range of scales. On a DenseNet without its last two pools, whose
channels a further transition halves. The authors' batch norms move slowly (momentum 3e-4).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import BatchNorm
from adapt.models.segmenter import Decoder, Heads, Stages

RATES = (3, 6, 12, 18, 24)
WIDTHS = {
    "densenet121": (128, 64),
    "densenet169": (336, 168),
    "densenet161": (512, 128),
    "densenet201": (480, 240),
}
"""Inner and new channels of a layer by encoder, as in the authors' program."""

USUAL_WIDTHS = (128, 64)


class DenseASPPConfig(AuxiliaryConfig):
    """DenseASPP's own choices."""

    architecture: Literal["denseaspp"] = Field(
        "denseaspp", description="Densely connected dilated convolutions (CVPR 2018)."
    )
    encoder: str = Field(
        "densenet161.tv_in1k", description="A backbone; the paper's best is DenseNet-161."
    )
    aux: bool = Field(
        True, description="A 1x1 classifier before the dilated convolutions: our addition."
    )
    head_norm_momentum: float = Field(
        3e-4,
        gt=0,
        le=1,
        description="Momentum of the head's running statistics (the program: 3e-4, for tens of "
        "thousands of steps; short runs want 0.1).",
    )


class DenseASPPLayer(nn.Module):
    """[BN]-ReLU-1x1-BN-ReLU-dilated 3x3-dropout: (B, C, h, w) -> (B, new, h, w)."""

    def __init__(
        self, in_channels: int, widths: tuple[int, int], rate: int, momentum: float, first: bool
    ) -> None:
        super().__init__()
        inner, new = widths
        self.norm = nn.Identity() if first else BatchNorm(in_channels, momentum=momentum)
        self.convs = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, inner, 1),
            BatchNorm(inner, momentum=momentum),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, new, 3, padding=rate, dilation=rate),
            nn.Dropout2d(0.1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.convs(self.norm(features))


class DenseASPPDecoder(Decoder):
    """DenseASPP: dilated convolutions, densely connected.

    Transition, five densely connected layers, newest maps first, a 1x1 classifier.
    """

    Config: ClassVar[type[SegmenterConfig]] = DenseASPPConfig

    def __init__(self, config: DenseASPPConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        widths = WIDTHS.get(encoder.name.partition(".")[0], USUAL_WIDTHS)
        momentum, channels = config.head_norm_momentum, encoder.channels[-1] // 2
        self.transition = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(encoder.channels[-1], channels, 1, bias=False),
            BatchNorm(channels, momentum=momentum),
        )
        self.aux = nn.Conv2d(channels, num_classes, 1) if config.aux else None
        self.layers = nn.ModuleList()
        for number, rate in enumerate(RATES):
            first = number == 0
            self.layers.append(DenseASPPLayer(channels, widths, rate, momentum, first))
            channels += widths[1]
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, num_classes, 1))

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits, auxiliary ones] at the encoder's output stride."""
        dense = halved = self.transition(features[-1])
        for layer in self.layers:
            dense = torch.cat([layer(dense), dense], dim=1)
        logits = [self.classifier(dense)]
        if self.aux is not None:
            logits.append(self.aux(halved))
        return logits, {}
