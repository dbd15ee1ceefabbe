"""The teacher of self-training: a moving average of the segmentation network that makes labels.

It is a part of its method, so every checkpoint has it, and a resumed job continues with the teacher
that it had. Programs differ in three points, which are choices here: the average's length (DACS
0.99, DAFormer and its heirs 0.999), what the teacher's batch norm reads (DAFormer: the batch), and
whether it averages its answers for an image and its mirror image (VFM-UDA). MIC moves the teacher
before a step and VFM-UDA after it; between two steps both are the same but for the ramp, here
MIC's.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from adapt.batch import Batch
from adapt.losses import class_probabilities
from adapt.methods.moving_average import MovingAverage, MovingAverageConfig
from adapt.methods.pseudo_labels import PseudoLabelConfig, PseudoLabels, pseudo_labels
from adapt.models.segmenter import Segmenter


class TeacherConfig(MovingAverageConfig):
    """The EMA teacher, which makes pseudo-labels."""

    norm: Literal["batch", "running"] = Field(
        "batch",
        description="Statistics of the teacher's batch norm. batch: the batch's own (DAFormer, "
        "MIC); running: the student's running ones, averaged as its weights are.",
    )
    mirror: bool = Field(
        False,
        description="Average the teacher's probabilities over an image and its mirror image "
        "(VFM-UDA); costs one more forward pass.",
    )


class Teacher(MovingAverage):
    """A moving average that labels target images."""

    def __init__(self, config: TeacherConfig, trust: PseudoLabelConfig, student: Segmenter) -> None:
        super().__init__(config, student, statistics=config.norm == "running")
        self.config, self.trust = config, trust
        self._labelled: list[tuple[Batch, PseudoLabels]] = []

    def train(self, mode: bool = True) -> "Teacher":
        """As usual, but dropout is off, and norms read what the config says."""
        super().train(mode and self.config.norm == "batch")
        for module in self.network.modules():
            if isinstance(module, _DropoutNd) or type(module).__name__ == "DropPath":
                module.eval()
        return self

    def labels(self, target: Batch, parts: Sequence[Batch]) -> PseudoLabels:
        """Labels of a target batch, which may be one of the `parts` of its step.

        All parts are labelled at the first: how sure the teacher is may be a mean over them.
        """
        if not any(known is target for known, _ in self._labelled):
            whole = parts if any(part is target for part in parts) else (target,)
            made = pseudo_labels((self.probabilities(part.images) for part in whole), self.trust)
            self._labelled = list(zip(whole, made, strict=True))
        return next(labels for known, labels in self._labelled if known is target)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities of the main head: (B, 3, H, W) -> (B, K, H, W), without gradient."""
        found = class_probabilities(self.network(images).logits[0])
        if self.config.mirror:
            mirrored = class_probabilities(self.network(images.flip(-1)).logits[0])
            found = (found + mirrored.flip(-1)) / 2
        return found

    def follow(self, student: Segmenter, step: int, taken: Tensor | None = None) -> None:
        """As of any moving average; labels of the step before are forgotten."""
        self._labelled = []
        super().follow(student, step, taken)
