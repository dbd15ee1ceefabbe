"""Adversarial adaptation, as AdaptSegNet and AdvEnt share it: a discriminator a level.

A level is a head, main head first, or a stage of the encoder. Discriminator inputs are maps
(B, C, h, w) by level; losses by level come out. Source is 0 and target is 1, as in both programs;
the papers write it the other way round.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Batch, Prediction
from adapt.config.section import Section
from adapt.errors import JobError
from adapt.methods.method import Method, Term, frozen, weighted
from adapt.models.discriminators import SMALLEST_SIDE_PX, FullyConvolutionalDiscriminator
from adapt.models.segmenter import Segmenter

SOURCE, TARGET = 0, 1

Criterion = Callable[[Tensor, int], Tensor]
"""A discriminator's logits (B, 1, h, w) and the domain they should name -> scalar."""


class Discriminators(nn.ModuleDict):
    """A discriminator by the name of the level that it judges."""

    def __init__(self, modules: Mapping[str, nn.Module], criterion: Criterion) -> None:
        super().__init__(modules)
        self.criterion = criterion

    def named(self) -> dict[str, nn.Module]:
        """Discriminators by the names that `Method.adversaries` returns."""
        return {f"discriminator_{name}": module for name, module in self.items()}

    def adversarial_losses(self, target_maps: Sequence[Tensor]) -> list[Tensor]:
        """By level: the loss of target maps that should pass for source. Gradients reach the maps
        alone.
        """
        with frozen(self):
            return self._judge(target_maps, SOURCE)

    def discriminator_losses(
        self, maps: Sequence[Tensor], domain: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Level -> (1/2, loss of its discriminator on maps of one domain).

        Gradients reach the discriminators alone. A half, so that both domains together weigh 1.
        """
        judged = self._judge([level.detach() for level in maps], domain)
        return {name: (0.5, loss) for name, loss in zip(self, judged, strict=True)}

    def _judge(self, maps: Sequence[Tensor], domain: int) -> list[Tensor]:
        pairs = zip(self.values(), maps, strict=True)
        return [self.criterion(discriminator(level), domain) for discriminator, level in pairs]


class AdversarialConfig(Section):
    """Keys that all adversarial methods share."""

    weight_adv: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (0.001, 0.0002),
        min_length=1,
        description="Weight of the adversarial loss of each head, main head first (multi level: "
        "both papers' setting); one number adapts the main head alone (single level).",
    )
    discriminator_width: int = Field(
        64,
        ge=1,
        description="Channels of a discriminator's first layer (the papers: 64); less is faster.",
    )
    discriminator_uris: dict[str, str] = Field(
        {},
        description="Weights that discriminators start from, by head (main, aux): files that "
        "import-checkpoint wrote, in any store (the papers: none).",
    )


class AdversarialMaps(Method):
    """Discriminators classify the domain of maps; the segmentation network learns to fool them.

    `discriminator_inputs` and the discriminators' criterion make it one paper or another.
    """

    def __init__(
        self, config: AdversarialConfig, segmenter: Segmenter, discriminators: Discriminators
    ) -> None:
        super().__init__(config, segmenter)
        self.discriminators = discriminators

    @classmethod
    def smallest_side_px(cls, config: Any) -> int:  # noqa: ARG003 - for those on other inputs
        """That of the papers' discriminators, on maps of the images' size."""
        return SMALLEST_SIDE_PX

    @abstractmethod
    def discriminator_inputs(self, prediction: Prediction) -> list[Tensor]:
        """The discriminators' inputs from a prediction: (B, C, h, w) by level."""

    def on_target(self, prediction: Prediction) -> dict[str, tuple[float, Tensor]]:  # noqa: ARG002
        """Further losses on the target's prediction: name -> (weight, scalar)."""
        return {}

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation, adversarial, then the discriminators' losses on source and on target."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(source.images)
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
        source_maps = [maps.detach() for maps in self.discriminator_inputs(prediction)]
        del prediction

        prediction = self.segmenter(target.images)
        target_maps = self.discriminator_inputs(prediction)
        yield weighted({**self._adversarial(target_maps), **self.on_target(prediction)})
        target_maps = [maps.detach() for maps in target_maps]
        del prediction

        judged = self.discriminators.discriminator_losses
        yield weighted(judged(source_maps, SOURCE), "discriminator_source/")
        yield weighted(judged(target_maps, TARGET), "discriminator_target/")

    def _adversarial(self, target_maps: Sequence[Tensor]) -> dict[str, tuple[float, Tensor]]:
        losses = self.discriminators.adversarial_losses(target_maps)
        named = zip(self.discriminators, self.config.weight_adv, losses, strict=True)
        return {f"adversarial/{level}": (weight, loss) for level, weight, loss in named}

    def adversaries(self) -> dict[str, nn.Module]:
        """`discriminator_main` and, where two heads are adapted, `discriminator_aux`."""
        return self.discriminators.named()


def output_discriminators(
    config: AdversarialConfig, segmenter: Segmenter, criterion: Criterion
) -> Discriminators:
    """One for each head that `weight_adv` adapts, on maps with a channel a class."""
    heads = adapted_heads(segmenter, config.weight_adv, "method.weight_adv")
    width = config.discriminator_width
    return Discriminators(
        {head: FullyConvolutionalDiscriminator(segmenter.num_classes, width) for head in heads},
        criterion,
    )


def adapted_heads(segmenter: Segmenter, weights: Sequence[float], key: str) -> tuple[str, ...]:
    """The heads that `weights` adapt, main first. `JobError` at `key` where there are fewer."""
    if len(weights) > len(segmenter.head_names):
        raise JobError(
            f"{key}: expected at most one weight for each head of the model "
            f"({', '.join(segmenter.head_names)}), got {len(weights)}: {list(weights)}"
        )
    return segmenter.head_names[: len(weights)]
