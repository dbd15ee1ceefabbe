"""The supervised loss of a head as the job spec's `loss` has it: which pixels count, how much.

The papers' programs count all pixels alike, but for FRRN's, which counts each image's hardest.
Both keys hold for every head of every architecture; losses of side outputs (EncNet's class
presence, DFN's border) stay as they are.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from torch import Tensor, nn

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.errors import JobError
from adapt.losses import (
    balanced_weights,
    bootstrapped_cross_entropy,
    cross_entropy,
    hardest_cross_entropy,
)

FIX = "write none, balanced or a list with a number for each class"


def _some_class_counts(given: Any, validated: ValidatorFunctionWrapHandler) -> Any:
    """One message for both kinds of values, and none of weights that are all 0."""
    try:
        weights = validated(given)
    except ValidationError:
        weights = None
    if not weights or not any(weights):
        raise Mistake(
            f"expected none, balanced or a list of numbers >= 0 with one above 0, got {given!r}",
            fix=FIX,
        )
    return weights


ClassWeights = Annotated[
    Literal["none", "balanced"] | list[Annotated[float, Field(ge=0)]],
    WrapValidator(_some_class_counts),
]


class LossConfig(Section):
    """The supervised loss of every head."""

    class_weights: ClassWeights = Field(
        "none",
        description="Weight of a pixel of each class. none: all alike (the papers); "
        "balanced: pixels of an average class over the class's own, from the source's labels, so "
        "that all classes weigh the same; or a list with a number for each class. The loss is "
        "divided by the sum of the weights of its pixels.",
    )
    hardest: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Online hard example mining: the share of each image's labelled pixels, those "
        "of greatest weighted loss, that counts; null: all, and frrn's hardest_pixels.",
    )

    def check_classes(self, num_classes: int) -> None:
        """Raise `JobError` for a list of weights that is not one for each class."""
        given = self.class_weights
        if not isinstance(given, str) and len(given) != num_classes:
            raise JobError(
                f"loss.class_weights: expected {num_classes} numbers, one for each class, got "
                f"{len(given)}",
                fix="write one for each of classes, in their order",
            )


class PixelLoss(nn.Module):
    """Logits (B, K, h, w), labels (B, H, W) int64 -> scalar; of all pixels alike at first.

    `class_weights` (K,) are no part of a network's state: they follow from the job and its source.
    """

    class_weights: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.hardest: float | None = None
        self.register_buffer("class_weights", None, persistent=False)

    def configure(
        self, config: LossConfig, num_classes: int, label_pixels: Tensor | None = None
    ) -> None:
        """Take the spec's choices; `label_pixels` (N, K), pixels of each class in each source
        image, for weights that are balanced: without, as on networks without memory, they are 1.

        Raises `JobError` for weights of another number of classes.
        """
        config.check_classes(num_classes)
        self.hardest = config.hardest
        self.class_weights = None
        if config.class_weights == "balanced":
            pixels = torch.ones(1, num_classes) if label_pixels is None else label_pixels
            self.class_weights = balanced_weights(pixels)
        elif config.class_weights != "none":
            self.class_weights = torch.tensor(config.class_weights)

    def forward(self, logits: Tensor, labels: Tensor, hardest_pixels: int | None = None) -> Tensor:
        """`hardest_pixels`: how many of each image an architecture counts by itself."""
        if self.hardest is not None:
            return hardest_cross_entropy(logits, labels, self.hardest, self.class_weights)
        if hardest_pixels is not None:
            return bootstrapped_cross_entropy(logits, labels, hardest_pixels, self.class_weights)
        return cross_entropy(logits, labels, self.class_weights)
