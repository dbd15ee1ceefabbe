"""AdvEnt (Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation, CVPR 2019).

A network trained on the source is sure of itself there and unsure on the target. AdvEnt closes that
gap adversarially: discriminators learn to tell the domains by maps of weighted self-information, I
= -P log P, and the segmentation network learns to make target maps that pass for source ones. It is
AdaptSegNet with I in the place of P.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.losses import adversarial_vanilla, class_probabilities, weighted_self_information
from adapt.methods.adversaries import AdversarialMaps
from adapt.models.segmenter import Segmenter
from adapt.section import Section


class AdvEntConfig(Section):
    """Weights of the adversarial losses."""

    name: Literal["advent"] = Field("advent", description="Adversarial entropy maps (CVPR 2019).")
    weight_adv: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.001, 0.0002),
        min_length=1,
        description="Weight of the adversarial loss of each head, main head first (the program's "
        "LAMBDA_ADV_MAIN and LAMBDA_ADV_AUX); one number adapts the main head alone.",
    )
    discriminator_width: int = Field(
        64,
        ge=1,
        description="Channels of a discriminator's first layer (the papers: 64); less is faster.",
    )


class AdvEnt(AdversarialMaps):
    """Adversarial entropy minimisation with a discriminator for each adapted head."""

    Config: ClassVar[type[Section]] = AdvEntConfig

    def __init__(self, config: AdvEntConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter, adversarial_vanilla)

    def seen(self, logits: Tensor) -> Tensor:
        """I = -P log P, the weighted self-information of the softmax maps P."""
        return weighted_self_information(class_probabilities(logits))
