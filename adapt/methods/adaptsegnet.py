"""AdaptSegNet (Tsai et al., Learning to Adapt Structured Output Space ..., CVPR 2018).

Source and target differ in looks, but their label maps are alike. So discriminators learn to tell
the domains by softmax maps, at input resolution, and the segmentation network learns to make target
maps that pass for source ones.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Batch, Prediction
from adapt.losses import adversarial_least_squares, adversarial_vanilla, class_probabilities
from adapt.methods.adversaries import SOURCE, TARGET, HeadDiscriminators, adapted_heads
from adapt.methods.method import Method, Term, weighted
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


class AdaptSegNet(Method):
    """Output-space adaptation with a discriminator for each adapted head."""

    Config: ClassVar[type[Section]] = AdaptSegNetConfig

    def __init__(self, config: AdaptSegNetConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        heads = adapted_heads(segmenter, config.weight_adv, "method.weight_adv")
        criterion = CRITERIA[config.gan]
        self.discriminators = HeadDiscriminators(
            heads, segmenter.num_classes, criterion, config.discriminator_width
        )

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation, fooling, and the discriminators on source and on target."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(source.images)
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
        source_maps = [maps.detach() for maps in self._maps(prediction)]
        del prediction

        target_maps = self._maps(self.segmenter(target.images))
        fooled = zip(self.config.weight_adv, self.discriminators.fooled(target_maps), strict=True)
        yield weighted(dict(zip(self.discriminators, fooled, strict=True)), "adversarial/")
        target_maps = [maps.detach() for maps in target_maps]

        yield weighted(self.discriminators.told_apart(source_maps, SOURCE), "discriminator_source/")
        yield weighted(self.discriminators.told_apart(target_maps, TARGET), "discriminator_target/")

    def adversaries(self) -> dict[str, nn.Module]:
        """`discriminator_main` and, where two heads are adapted, `discriminator_aux`."""
        return self.discriminators.named()

    def _maps(self, prediction: Prediction) -> list[Tensor]:
        """What the discriminators see, by adapted head: P, the softmax maps."""
        adapted = prediction.logits[: len(self.discriminators)]
        return [class_probabilities(logits) for logits in adapted]
