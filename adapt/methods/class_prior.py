"""The class-ratio prior of ADVENT (Vu et al., CVPR 2019, Eq. 8), for MinEnt and AdvEnt.

Making a network sure of itself tempts it to predict the frequent classes alone. The prior requires
that every class be predicted at least `mu` times as often, in an image, as it is in the source. The
paper uses it for SYNTHIA with VGG-16; it is in no released program, and its weight is not given.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.config.section import Section
from adapt.errors import JobError
from adapt.losses import class_prior_loss, class_probabilities


class ClassPriorConfig(Section):
    """The least share of each class that a target image should have."""

    mu: float = Field(
        0.5, ge=0, le=1, description="Required share of the source's class ratio (paper)."
    )
    weight: float = Field(
        1.0, ge=0, description="Weight of the prior's loss (a guess: the paper states none)."
    )


class ClassPrior(nn.Module):
    """The prior's loss on logits. `class_ratios` (K,) are the source's, once observed."""

    class_ratios: Tensor

    def __init__(self, config: ClassPriorConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("class_ratios", torch.zeros(num_classes))
        self._known = False

    def observe(self, label_pixels: Tensor) -> None:
        """Take the classes' shares of all labelled pixels: (N, K) pixels by image and class."""
        totals = label_pixels.double().sum(dim=0)
        self.class_ratios.copy_(totals / totals.sum())

    def forward(self, logits: Tensor) -> tuple[float, Tensor]:
        """Logits (B, K, H, W) -> (weight, scalar). Raises `JobError` before `observe`."""
        self._known = self._known or bool(self.class_ratios.any())  # waits for the device once
        if not self._known:
            raise JobError(
                "method.class_prior: expected the source's class ratios, got none",
                fix="call method.observe_source with the pixels of each class in each source image",
            )
        loss = class_prior_loss(class_probabilities(logits), self.class_ratios, self.config.mu)
        return self.config.weight, loss
