"""Scores a segmentation network on a labelled split: one confusion matrix over all pixels, and the
IoU of every class.

As the papers do it: network in eval mode, main head, logits upsampled to the labels' own size,
argmax. The matrix is summed on the device in whole numbers, so its value does not depend on batches
or ranks, and no image waits for the host.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapt.batch import Sample
from adapt.config.validation import Mistake
from adapt.data.packed.packed_split import PackedSplit, SplitConfig
from adapt.errors import Interrupted
from adapt.evaluation.inference import (
    WHOLE_IMAGE,
    EnsembleMember,
    InferenceConfig,
    class_map,
    members_of,
    predictions,
    upload,
)
from adapt.evaluation.metrics import confusion_matrix, iou, miou, pixel_accuracy
from adapt.models.segmenter import Segmenter
from adapt.ranks import any_rank, sum_over_ranks


class ValidationConfig(SplitConfig):
    """The labelled split that checkpoints are scored on."""

    split: str = Field("val", description="Name of the split.")


class EvaluateConfig(InferenceConfig):
    """When and how to evaluate, and how to choose the best checkpoint."""

    every_steps: int = Field(
        2000, ge=1, description="Steps between two evaluations (ADVENT's number)."
    )
    subsets: tuple[Literal["synthia16", "synthia13"], ...] = Field(
        (),
        description="Means over fewer classes to report beside, from the same confusion matrix: "
        "the papers' 16 and 13 classes of SYNTHIA.",
    )
    select_by: Literal["miou", "pixel_accuracy", "miou_synthia16", "miou_synthia13"] = Field(
        "miou",
        description="The score whose highest value marks the best checkpoint; a subset's must be "
        "among subsets.",
    )
    pictures: int = Field(
        4, ge=0, description="Validation images drawn with truth, prediction, entropy."
    )

    @model_validator(mode="after")
    def _selects_what_is_reported(self) -> "EvaluateConfig":
        subset = self.select_by.removeprefix("miou_")
        if subset != self.select_by and subset not in self.subsets:
            raise Mistake(
                f"select_by: expected a reported score, got {self.select_by!r} without "
                f"{subset!r} in evaluate.subsets",
                fix="add it there",
            )
        return self


NO_SUBSETS: Mapping[str, tuple[int, ...]] = MappingProxyType({})


class Score(NamedTuple):
    """`matrix` (K, K) int64 pixels, row truth, column prediction; the metrics follow from it.

    `subsets`: train ids by name, each with a mean of its own, from `metrics.subset_classes`.
    `finite` is False where logits were no numbers: then the matrix means nothing.
    """

    matrix: Tensor
    subsets: Mapping[str, tuple[int, ...]] = NO_SUBSETS
    finite: bool = True

    @property
    def iou(self) -> np.ndarray:
        """(K,) intersection over union in [0, 1]; NaN for a class neither in truth nor
        predicted."""
        return iou(self.matrix).cpu().numpy()

    def metrics(self) -> dict[str, float]:
        """The metrics that `select_by` names, in [0, 1]; NaN where no pixel was counted, and all
        where logits were no numbers."""
        means = {name: miou(self.matrix, classes) for name, classes in self.subsets.items()}
        metrics = {
            "miou": miou(self.matrix),
            "pixel_accuracy": pixel_accuracy(self.matrix),
            **{f"miou_{name}": mean for name, mean in means.items()},
        }
        return metrics if self.finite else dict.fromkeys(metrics, float("nan"))

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """All of it as plain data: metrics, IoU by class (None where NaN) and the matrix."""
        per_class = [_or_none(float(value)) for value in self.iou]
        return {
            **{name: _or_none(value) for name, value in self.metrics().items()},
            "iou": dict(zip(names, per_class, strict=True)),
            "matrix": self.matrix.tolist(),
        }


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


class Picture(NamedTuple):
    """The content of a panel: `image` (H, W, 3) uint8, `truth` and `predicted` (h, w) uint8,
    `logits` (K, h, w)."""

    key: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray


class Evaluation(NamedTuple):
    """A score and the requested pictures."""

    score: Score
    pictures: list[Picture]


@torch.no_grad()
def evaluate(
    segmenters: Segmenter | Sequence[EnsembleMember],
    split: PackedSplit,
    device: torch.device,
    *,
    views: InferenceConfig = WHOLE_IMAGE,
    subsets: Mapping[str, tuple[int, ...]] = NO_SUBSETS,
    threads: int = 2,
    num_pictures: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    on_image: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate a network, or an ensemble, on all of `split`, shared out over ranks; every rank gets
    the same score, the leader the pictures.

    `on_image` is called after each image. Where `stopped` returns true before an image on any rank,
    all ranks raise `Interrupted`. Leaves the networks in the mode they were in.
    """
    members = members_of(segmenters)
    classes = members[0].segmenter.num_classes
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    wanted = set(np.linspace(0, len(split) - 1, num_pictures).round().astype(int).tolist())
    unusual = torch.zeros((), dtype=torch.int64, device=device)
    pictures = []
    indices = range(rank, len(split), num_ranks)
    seen = predictions(
        members, split, indices, _size_of_labels, device, views=views, threads=threads
    )
    early = False
    with closing(seen):
        for number, sample, logits in seen:
            early = stopped()
            if early:
                break
            unusual += ~logits.isfinite().all()
            predicted = class_map(logits)
            matrix += confusion_matrix(upload(_labels(sample), device), predicted, classes)
            if number in wanted:
                pictures.append(_picture(split.key(number), sample, predicted, logits))
            on_image()
    if any_rank(early)[0]:
        raise Interrupted("stopped inside an evaluation")
    matrix, unusual = sum_over_ranks(matrix), sum_over_ranks(unusual)
    return Evaluation(Score(matrix.cpu(), subsets, finite=not unusual.item()), pictures)


def _labels(sample: Sample) -> Tensor:
    assert sample.labels is not None, "an evaluation split is opened with its labels"
    return sample.labels


def _size_of_labels(_index: int, sample: Sample) -> tuple[int, int]:
    height_px, width_px = _labels(sample).shape
    return height_px, width_px


def _picture(key: str, sample: Sample, predicted: Tensor, logits: Tensor) -> Picture:
    return Picture(
        key,
        sample.image.permute(1, 2, 0).numpy(),
        _labels(sample).numpy(),
        predicted.to(torch.uint8).cpu().numpy(),
        logits.cpu().numpy(),
    )
