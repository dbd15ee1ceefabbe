"""The labelling stage of two-stage methods: a trained network's predictions become labels of the
target, before training begins.

The network predicts the target twice. The first pass gathers what the paper decides by, over all
ranks and in memory that does not grow with pixels; the second makes the labels. So nothing between
the passes has to be stored but a few numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from adapt.config.section import Section


class LabellingConfig(Section):
    """The network that makes the pseudo-labels."""

    run: str | None = Field(
        None,
        min_length=1,
        description="Needed in a job. The run whose checkpoint makes the pseudo-labels: its name, "
        "where it lies under this job's checkpoint.uri, or the URI of its folder, of one of its "
        "checkpoints, or of a file of weights.",
    )
    checkpoint: Literal["best", "last"] = Field(
        "best",
        description="Checkpoint of that run. best: as its evaluations marked it (both programs); "
        "last: the newest, which a run without validation has alone.",
    )
    start: bool = Field(False, description="Start training from the same weights, not model's.")


class Part(NamedTuple):
    """Samples of the target, by their numbers in packed order, that make a split of their own."""

    name: str
    samples: tuple[int, ...]


Facts = Mapping[str, Sequence[float]]
"""The result of the first pass, by name: plain numbers, the same on all ranks."""


class Labeller(ABC):
    """A paper's rule for pseudo-labels, in two passes.

    `labelled` has each domain of the training that the stage fills with samples of the target, and
    says whether they come with labels. `round_number` counts from 0, for methods that label several
    times.
    """

    labelled: ClassVar[Mapping[str, bool]]

    def __init__(
        self, config: Any, num_classes: int, num_samples: int, round_number: int = 0
    ) -> None:
        self.config, self.num_classes, self.num_samples = config, num_classes, num_samples
        self.round_number = round_number

    @abstractmethod
    def observe(self, sample: int, logits: Tensor) -> None:
        """First pass: the logits (K, H, W) of one of this rank's samples, without a wait for the
        device."""

    @abstractmethod
    def facts(self) -> Facts:
        """The facts observed on all ranks, which all call it."""

    @abstractmethod
    def parts(self, facts: Facts) -> Mapping[str, Part]:
        """The split of each domain in `labelled`."""

    @abstractmethod
    def labels(self, facts: Facts, logits: Tensor) -> Tensor:
        """Second pass: (K, H, W) -> (H, W) uint8 train ids, `IGNORED` where there is no label."""

    def settings(self) -> Mapping[str, Any]:
        """The settings that the labels depend on, as plain values."""
        return self.config.model_dump(mode="json", exclude=set(LabellingConfig.model_fields))

    def shown(self, facts: Facts) -> Mapping[str, Sequence[float]]:  # noqa: ARG002, few have any
        """Numbers for people, one a class, by the heading of their column."""
        return {}


def argmax_labels(logits: Tensor) -> Tensor:
    """(K, H, W) -> (H, W) uint8: the most probable class everywhere."""
    return logits.max(dim=0).indices.to(torch.uint8)
