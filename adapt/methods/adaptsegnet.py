"""AdaptSegNet (Tsai et al., Learning to Adapt Structured Output Space ..., CVPR 2018).

Source and target differ in looks, but their label maps are alike. So discriminators learn to tell
the domains by softmax maps, at input resolution (Eq. 2), and the segmentation network, beside its
cross entropy (Eq. 3), learns to make target maps that pass for source ones (Eq. 4), on one head or
on two (Eq. 5 and 6). The paper calls the source 1, its program 0. The program sums two of the
head's four branches, in training and in use (`model.aspp_branches: 2`); its released weights need
that. Its single level keeps an auxiliary head of weight 0.

The paper also adapts features instead of outputs (its row of 39.3), without giving the network that
judges them, and no program has it. Here that is the same discriminator in 3x3 convolutions of
stride 1, on the encoder's deepest stages.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from adapt.batch import Prediction
from adapt.config.section import Section
from adapt.errors import JobError
from adapt.losses import adversarial_least_squares, adversarial_vanilla, class_probabilities
from adapt.methods.adversaries import (
    AdversarialConfig,
    AdversarialMaps,
    Criterion,
    Discriminators,
    output_discriminators,
)
from adapt.models.discriminators import SMALLEST_SIDE_PX, FullyConvolutionalDiscriminator
from adapt.models.segmenter import Segmenter

CRITERIA = {"vanilla": adversarial_vanilla, "least_squares": adversarial_least_squares}


class AdaptSegNetConfig(AdversarialConfig):
    """Weights of the adversarial losses."""

    name: Literal["adaptsegnet"] = Field(
        "adaptsegnet", description="Adversarial softmax maps (CVPR 2018)."
    )
    gan: Literal["vanilla", "least_squares"] = Field(
        "vanilla",
        description="The adversarial loss (the paper: vanilla; its third version: least_squares, "
        "with a weight of 0.01).",
    )
    space: Literal["output", "features"] = Field(
        "output",
        description="Input of the discriminators: softmax maps of the heads, or the encoder's "
        "deepest stages, the deepest first (the paper's comparison).",
    )


class AdaptSegNet(AdversarialMaps):
    """Output-space adaptation with a discriminator for each adapted head, or stage."""

    Config: ClassVar[type[Section]] = AdaptSegNetConfig

    def __init__(self, config: AdaptSegNetConfig, segmenter: Segmenter) -> None:
        self.space = SPACES[config.space]
        discriminators = self.space.discriminators(config, segmenter, CRITERIA[config.gan])
        super().__init__(config, segmenter, discriminators)

    @classmethod
    def smallest_side_px(cls, config: AdaptSegNetConfig) -> int:
        """That of its discriminators, of which those on features take any size."""
        return SPACES[config.space].smallest_side_px

    def discriminator_inputs(self, prediction: Prediction) -> list[Tensor]:
        """P, the softmax maps of the adapted heads; or the adapted stages, deepest first."""
        return self.space.inputs(prediction)[: len(self.discriminators)]


def _feature_discriminators(
    config: AdversarialConfig, segmenter: Segmenter, criterion: Criterion
) -> Discriminators:
    """One for each stage that `weight_adv` adapts, deepest first, named by its place."""
    segmenter.require_learning_encoder("discriminators of features")
    channels = segmenter.encoder.channels
    if len(config.weight_adv) > len(channels):
        raise JobError(
            f"method.weight_adv: expected at most one weight for each of {len(channels)} stages of "
            f"the encoder, got {len(config.weight_adv)}: {list(config.weight_adv)}"
        )
    adapted = range(len(channels) - 1, len(channels) - 1 - len(config.weight_adv), -1)
    width = config.discriminator_width
    return Discriminators(
        {
            f"stage{stage + 1}": FullyConvolutionalDiscriminator(channels[stage], width, stride=1)
            for stage in adapted
        },
        criterion,
    )


def _probabilities(prediction: Prediction) -> list[Tensor]:
    return [class_probabilities(logits) for logits in prediction.logits]


def _stages(prediction: Prediction) -> list[Tensor]:
    return list(prediction.features[::-1])


class Space(NamedTuple):
    """A row of `SPACES`: how discriminators are built, their inputs by level, and the shortest side
    of images that gives them one."""

    discriminators: Callable[[AdaptSegNetConfig, Segmenter, Criterion], Discriminators]
    inputs: Callable[[Prediction], list[Tensor]]
    smallest_side_px: int


SPACES = {
    "output": Space(output_discriminators, _probabilities, SMALLEST_SIDE_PX),
    "features": Space(_feature_discriminators, _stages, 1),
}
"""By the spec's `method.space`."""
