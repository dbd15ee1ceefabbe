"""The game that AdaptSegNet and AdvEnt share, with one discriminator for each adapted head.

Maps (B, K, H, W) of each adapted head, main head first, go in; losses by head come out. Source is 0
and target is 1, as in both programs; the papers write it the other way round.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from adapt.batch import Batch, Prediction
from adapt.errors import JobError
from adapt.methods.method import Method, Term, frozen, weighted
from adapt.models.discriminators import FullyConvolutionalDiscriminator
from adapt.models.segmenter import Segmenter

SOURCE, TARGET = 0, 1

Criterion = Callable[[Tensor, int], Tensor]
"""A discriminator's logits (B, 1, h, w) and the domain they should name -> scalar."""


class HeadDiscriminators(nn.ModuleDict):
    """A discriminator by head name."""

    def __init__(
        self, head_names: Sequence[str], num_classes: int, criterion: Criterion, width: int = 64
    ) -> None:
        super().__init__(
            {name: FullyConvolutionalDiscriminator(num_classes, width) for name in head_names}
        )
        self.criterion = criterion

    def named(self) -> dict[str, nn.Module]:
        """What `Method.adversaries` returns."""
        return {f"discriminator_{name}": module for name, module in self.items()}

    def fooled(self, target_maps: Sequence[Tensor]) -> list[Tensor]:
        """By head: how far target is from passing for source. Gradients reach the maps alone."""
        with frozen(self):
            return self._judge(target_maps, SOURCE)

    def told_apart(self, maps: Sequence[Tensor], domain: int) -> dict[str, tuple[float, Tensor]]:
        """Head -> (1/2, loss of its discriminator on maps of one domain).

        Gradients reach the discriminators alone. A half, so that both domains together weigh 1.
        """
        judged = self._judge([head.detach() for head in maps], domain)
        return {name: (0.5, loss) for name, loss in zip(self, judged, strict=True)}

    def _judge(self, maps: Sequence[Tensor], domain: int) -> list[Tensor]:
        pairs = zip(self.values(), maps, strict=True)
        return [self.criterion(discriminator(head), domain) for discriminator, head in pairs]


class AdversarialMaps(Method):
    """The game: discriminators tell the domains by maps, the segmentation network fools them.

    What the discriminators see, `seen`, and their criterion are what makes it one paper or another.
    The config has `weight_adv`, a weight by adapted head, and `discriminator_width`.
    """

    def __init__(self, config: Any, segmenter: Segmenter, criterion: Criterion) -> None:
        super().__init__(config, segmenter)
        heads = adapted_heads(segmenter, config.weight_adv, "method.weight_adv")
        self.discriminators = HeadDiscriminators(
            heads, segmenter.num_classes, criterion, config.discriminator_width
        )

    @abstractmethod
    def seen(self, logits: Tensor) -> Tensor:
        """What a discriminator sees of a head's logits: (B, K, H, W) -> (B, K, H, W)."""

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
        adapted = prediction.logits[: len(self.discriminators)]
        return [self.seen(logits) for logits in adapted]


def adapted_heads(segmenter: Segmenter, weights: Sequence[float], key: str) -> tuple[str, ...]:
    """The heads that `weights` adapt, main first. `JobError` at `key` where there are fewer."""
    if len(weights) > len(segmenter.head_names):
        raise JobError(
            f"{key}: expected at most one weight for each head of the model "
            f"({', '.join(segmenter.head_names)}), found {len(weights)}: {list(weights)}"
        )
    return segmenter.head_names[: len(weights)]
