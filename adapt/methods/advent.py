"""AdvEnt (Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation, CVPR 2019).

A network trained on the source is sure of itself there and unsure on the target. AdvEnt closes that
gap adversarially: discriminators learn to tell the domains by maps of weighted self-information I
(Eq. 2, before its sum over classes), a head's discriminator by Eq. 5, and the segmentation network
learns to make target maps that pass for source ones (Eq. 6; all together Eq. 7). It is AdaptSegNet
with I in the place of P. The paper's class-ratio prior (Eq. 8) is in no released program. The
program's log shows the target half of a discriminator's loss alone; ours has both.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.batch import Prediction
from adapt.config.section import Section
from adapt.losses import adversarial_vanilla, class_probabilities, weighted_self_information
from adapt.methods.adversaries import AdversarialConfig, AdversarialMaps, output_discriminators
from adapt.methods.class_prior import ClassPrior, ClassPriorConfig
from adapt.models.segmenter import Segmenter


class AdvEntConfig(AdversarialConfig):
    """Weights of the adversarial losses."""

    name: Literal["advent"] = Field("advent", description="Adversarial entropy maps (CVPR 2019).")
    class_prior: ClassPriorConfig | None = Field(
        None,
        description="Require every class at its share in the source (SYNTHIA, VGG-16), or none.",
    )


class AdvEnt(AdversarialMaps):
    """Adversarial entropy minimisation with a discriminator for each adapted head."""

    Config: ClassVar[type[Section]] = AdvEntConfig

    def __init__(self, config: AdvEntConfig, segmenter: Segmenter) -> None:
        discriminators = output_discriminators(config, segmenter, adversarial_vanilla)
        super().__init__(config, segmenter, discriminators)
        prior = config.class_prior
        self.prior = None if prior is None else ClassPrior(prior, segmenter.num_classes)

    def discriminator_inputs(self, prediction: Prediction) -> list[Tensor]:
        """I = -P log P of each adapted head's softmax maps P."""
        return entropy_maps(prediction, len(self.discriminators))

    def on_target(self, prediction: Prediction) -> dict[str, tuple[float, Tensor]]:
        """The class-ratio prior on the main head, where the spec has one."""
        return {} if self.prior is None else {"class_prior/main": self.prior(prediction.logits[0])}

    def observe_source(self, label_pixels: Tensor) -> None:
        """(N, K) pixels: the prior's class ratios."""
        if self.prior is not None:
            self.prior.observe(label_pixels)


def entropy_maps(prediction: Prediction, num_heads: int) -> list[Tensor]:
    """I = -P log P of the first heads' softmax maps P, (B, K, H, W) each."""
    adapted = prediction.logits[:num_heads]
    return [weighted_self_information(class_probabilities(logits)) for logits in adapted]
