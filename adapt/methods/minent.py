"""MinEnt (Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation, CVPR 2019).

The direct way of the same paper to make a network as sure of target images as of source ones:
minimise the entropy of its predictions on the target. No adversary.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from adapt.batch import Batch
from adapt.losses import class_probabilities, entropy_loss
from adapt.methods.adversaries import adapted_heads
from adapt.methods.method import Method, Term, weighted
from adapt.models.segmenter import Segmenter
from adapt.section import Section


class MinEntConfig(Section):
    """Weights of the entropy losses."""

    name: Literal["minent"] = Field(
        "minent", description="Direct entropy minimisation (CVPR 2019)."
    )
    weight_ent: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.001, 0.0002),
        min_length=1,
        description="Weight of the entropy loss of each head, main head first (the program's "
        "LAMBDA_ENT_MAIN and LAMBDA_ENT_AUX); one number adapts the main head alone.",
    )


class MinEnt(Method):
    """Direct entropy minimisation on the target."""

    Config: ClassVar[type[Section]] = MinEntConfig

    def __init__(self, config: MinEntConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        self.heads = adapted_heads(segmenter, config.weight_ent, "method.weight_ent")

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation on the source, entropy on the target."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(source.images)
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
        del prediction

        logits = self.segmenter(target.images).logits[: len(self.heads)]
        entropies = [entropy_loss(class_probabilities(head)) for head in logits]
        pairs = zip(self.config.weight_ent, entropies, strict=True)
        yield weighted(dict(zip(self.heads, pairs, strict=True)), "entropy/")
