"""MaskTwins (Wang et al., MaskTwins: Dual-form Complementary Masking for Domain-Adaptive Image
Segmentation, ICML 2025), over any other method.

MIC with two masks that complement each other: half of the blocks hidden, then the other half. Both
halves learn the teacher's labels of the whole image, and to agree with each other.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.methods.block_masks import block_mask
from adapt.methods.method import Term, weighted
from adapt.methods.mic import MIC, MICConfig
from adapt.methods.pseudo_labels import PseudoLabels
from adapt.methods.self_training import pseudo_label_losses


class MaskTwinsConfig(MICConfig):
    """MIC's keys, and the weight of the agreement."""

    name: Literal["masktwins"] = Field(  # type: ignore[assignment]
        "masktwins", description="Complementary masks (ICML 2025)."
    )
    ratio: float = Field(0.5, ge=0, lt=1, description="Share of hidden blocks (paper: half).")
    weight_agreement: float = Field(
        0.01,
        ge=0,
        description="Weight of the mean squared difference of both halves' logits (program).",
    )


class MaskTwins(MIC):
    """The base method's losses, then consistency of two complementary halves of target images."""

    Config: ClassVar[type[Section]] = MaskTwinsConfig

    def on_masked(self, target: Batch, pseudo: PseudoLabels) -> Iterator[Term]:
        """One term of both halves, whose graphs live together."""
        visible = block_mask(target, self.config.block_px, self.config.ratio, self.draws)
        images, segmenter, half = self.augmented(target), self.segmenter, self.config.weight / 2
        one, other = segmenter(images * visible), segmenter(images * (1 - visible))
        difference = F.mse_loss(one.logits[0], other.logits[0])
        yield weighted(
            {
                **pseudo_label_losses(segmenter, one, pseudo, half, "masked/"),
                **pseudo_label_losses(segmenter, other, pseudo, half, "complement/"),
                "agreement/main": (self.config.weight_agreement, difference),
            }
        )
