"""The game that AdaptSegNet and AdvEnt share, with one discriminator for each adapted head.

Maps (B, K, H, W) of each adapted head, main head first, go in; losses by head come out. Source is 0
and target is 1, as in both programs; the papers write it the other way round.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from adapt.errors import JobError
from adapt.methods.method import frozen
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


def adapted_heads(segmenter: Segmenter, weights: Sequence[float], key: str) -> tuple[str, ...]:
    """The heads that `weights` adapt, main first. `JobError` at `key` where there are fewer."""
    if len(weights) > len(segmenter.head_names):
        raise JobError(
            f"{key}: expected at most one weight for each head of the model "
            f"({', '.join(segmenter.head_names)}), found {len(weights)}: {list(weights)}"
        )
    return segmenter.head_names[: len(weights)]
