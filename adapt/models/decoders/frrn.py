"""FRRN (Pohlen, Hermans, Mathias & Leibe, Full-Resolution Residual Networks ..., CVPR 2017).

Two streams: a residual stream of 32 channels that never leaves the full resolution, and a pooling
stream that goes down and up again. A full-resolution residual unit joins the pooled residual stream
to the pooling one, and adds what it found to the residual stream; units are chained, each reads the
pooling stream of the one before. The encoder `frrn_a` or `frrn_b` is the way down, the decoder the
way up. Trained from scratch, on the hardest pixels of each image.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.models.config import ScratchConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.encoders.frrn import BASE, DOWN, LANES, ResidualUnit, levels
from adapt.models.layers import init_he_uniform, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages

UP = {
    "frrn_a": ((2, 192), (2, 192), (2, 96)),
    "frrn_b": ((2, 192), (2, 192), (2, 192), (2, 96)),
}
"""Number and width of the units after each unpooling."""


class FRRNConfig(ScratchConfig):
    """FRRN's own choices."""

    architecture: Literal["frrn"] = Field(
        "frrn", description="A full-resolution and a pooling stream (CVPR 2017)."
    )
    encoder: Literal["frrn_a", "frrn_b"] = Field(
        "frrn_a", description="frrn_a, or frrn_b, one pooling deeper, with output_stride: 32."
    )
    output_stride: Literal[16, 32] = Field(16, description="16 for frrn_a, 32 for frrn_b.")
    aux: bool = Field(
        True, description="A 1x1 classifier on the way up at 1/4 of the size: our addition."
    )
    hardest_pixels: int = Field(
        512 * 64, ge=1, description="Pixels of each image that the loss counts, the worst ones."
    )


class FRRNDecoder(Decoder):
    """FRRN: a stream at full resolution beside a pooling one.

    The way up, the streams joined, three residual units, classes.
    """

    Config: ClassVar[type[SegmenterConfig]] = FRRNConfig
    demands: ClassVar[Demands] = Demands(encoders=tuple(DOWN))

    def __init__(self, config: FRRNConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.hardest_pixels = config.hardest_pixels
        self.levels = levels(encoder.channels[-1], UP[encoder.name])
        last = UP[encoder.name][-1][1]
        self.merge = nn.Sequential(
            ResidualUnit(last + LANES, BASE), *(ResidualUnit(BASE, BASE) for _ in range(2))
        )
        self.classifier = nn.Conv2d(BASE, num_classes, 1)
        quarter = UP[encoder.name][-2][1]
        self.aux = nn.Conv2d(quarter, num_classes, 1) if config.aux else None
        init_he_uniform(self)

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

    def head_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Bootstrapped cross entropy: of an image's hardest pixels alone."""
        loss: Tensor = self.pixel_loss(logits, labels, self.hardest_pixels)
        return loss
