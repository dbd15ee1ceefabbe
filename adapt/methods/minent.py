"""MinEnt (Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation, CVPR 2019).

The direct way of the same paper to make a network as sure of target images as of source ones:
minimise the entropy of its predictions on the target (Eq. 2 and 3; with the source's loss Eq. 4).
No adversary. The paper sums over pixels and takes natural logarithms; its program, and hence its
weights, take the mean, over the log of the number of classes. Entropy ranking and the class-ratio
prior (Eq. 8) are the paper's and in no released program.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.losses import class_probabilities, entropy_loss
from adapt.methods.adversaries import adapted_heads
from adapt.methods.class_prior import ClassPrior, ClassPriorConfig
from adapt.methods.method import Method, Term, weighted
from adapt.models.segmenter import Segmenter


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
    ranking: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Share of an image's pixels, those of highest entropy, that count in the loss "
        "(the paper's entropy ranking: 0.3, for GTA5 with ResNet-101); null: all.",
    )
    class_prior: ClassPriorConfig | None = Field(
        None,
        description="Require every class at its share in the source (SYNTHIA, VGG-16), or none.",
    )


class MinEnt(Method):
    """Direct entropy minimisation on the target."""

    Config: ClassVar[type[Section]] = MinEntConfig

    def __init__(self, config: MinEntConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        self.heads = adapted_heads(segmenter, config.weight_ent, "method.weight_ent")
        prior = config.class_prior
        self.prior = None if prior is None else ClassPrior(prior, segmenter.num_classes)

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation on the source, entropy on the target."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(source.images)
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
        del prediction

        logits = self.segmenter(target.images).logits[: len(self.heads)]
        ranking = self.config.ranking
        entropies = [entropy_loss(class_probabilities(head), ranking) for head in logits]
        pairs = zip(self.config.weight_ent, entropies, strict=True)
        terms = {f"entropy/{head}": pair for head, pair in zip(self.heads, pairs, strict=True)}
        if self.prior is not None:
            terms["class_prior/main"] = self.prior(logits[0])
        yield weighted(terms)

    def observe_source(self, label_pixels: Tensor) -> None:
        """(N, K) pixels: the prior's class ratios."""
        if self.prior is not None:
            self.prior.observe(label_pixels)
