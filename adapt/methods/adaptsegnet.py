"""AdaptSegNet (Tsai et al., Learning to Adapt Structured Output Space ..., CVPR 2018).

Source and target differ in looks, but their label maps are alike. So discriminators learn to tell
the domains by softmax maps, at input resolution, and the segmentation network learns to make target
maps that pass for source ones.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.losses import adversarial_least_squares, adversarial_vanilla, class_probabilities
from adapt.methods.adversaries import AdversarialMaps
from adapt.models.segmenter import Segmenter
from adapt.section import Section

CRITERIA = {"vanilla": adversarial_vanilla, "least_squares": adversarial_least_squares}


class AdaptSegNetConfig(Section):
    """Weights of the adversarial losses."""

    name: Literal["adaptsegnet"] = Field(
        "adaptsegnet", description="Adversarial softmax maps (CVPR 2018)."
    )
    weight_adv: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.001, 0.0002),
        min_length=1,
        description="Weight of the adversarial loss of each head, main head first (the paper's "
        "multi-level setting); one number adapts the main head alone. With least_squares the "
        "paper's program uses 0.01.",
    )
    gan: Literal["vanilla", "least_squares"] = Field(
        "vanilla",
        description="The adversarial loss (the paper: vanilla; a later version: least_squares).",
    )
    discriminator_width: int = Field(
        64,
        ge=1,
        description="Channels of a discriminator's first layer (the papers: 64); less is faster.",
    )


class AdaptSegNet(AdversarialMaps):
    """Output-space adaptation with a discriminator for each adapted head."""

    Config: ClassVar[type[Section]] = AdaptSegNetConfig

    def __init__(self, config: AdaptSegNetConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter, CRITERIA[config.gan])

    def seen(self, logits: Tensor) -> Tensor:
        """P, the softmax maps."""
        return class_probabilities(logits)
