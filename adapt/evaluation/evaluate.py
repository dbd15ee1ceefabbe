"""Scores a segmentation network on a split: one confusion matrix over all labelled pixels, the IoU
of every class, and scores that need no labels.

As the papers do it: network in eval mode, main head, logits upsampled to the labels' own size,
argmax. The matrix is summed on the device in whole numbers, so its value does not depend on batches
or ranks, and no image waits for the host.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adapt.batch import Sample
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import Interrupted
from adapt.evaluation.consistency import SecondPredictions
from adapt.evaluation.inference import (
    WHOLE_IMAGE,
    EnsembleMember,
    InferenceConfig,
    OwnSize,
    class_map,
    evaluating,
    members_of,
    predicted_views,
    upload,
)
from adapt.evaluation.label_free import LABEL_FREE_SCORES
from adapt.evaluation.metrics import confusion_matrix, iou, miou, pixel_accuracy
from adapt.models.segmenter import Segmenter
from adapt.ranks import any_rank, sum_over_ranks

NO_SUBSETS: Mapping[str, tuple[int, ...]] = MappingProxyType({})
NO_SCORES: Mapping[str, float] = MappingProxyType({})


class Score(NamedTuple):
    """`matrix` (K, K) int64 pixels, row truth, column prediction; the metrics follow from it.

    `subsets`: train ids by name, each with a mean of its own, from `metrics.subset_classes`.
    `finite` is False where logits were no numbers: then the matrix means nothing. `label_free` are
    scores that need no labels, by name; without labels (`labelled`) they are all.
    """

    matrix: Tensor
    subsets: Mapping[str, tuple[int, ...]] = NO_SUBSETS
    finite: bool = True
    label_free: Mapping[str, float] = NO_SCORES
    labelled: bool = True

    @property
    def iou(self) -> np.ndarray:
        """(K,) intersection over union in [0, 1]; NaN for a class neither in truth nor
        predicted."""
        return iou(self.matrix).cpu().numpy()

    def metrics(self) -> dict[str, float]:
        """The metrics that `select_by` and `label_free` name, in [0, 1]; NaN where no pixel was
        counted, and all where logits were no numbers."""
        metrics = {**(self._of_labels() if self.labelled else {}), **self.label_free}
        return metrics if self.finite else dict.fromkeys(metrics, float("nan"))

    def _of_labels(self) -> dict[str, float]:
        means = {name: miou(self.matrix, classes) for name, classes in self.subsets.items()}
        return {
            "miou": miou(self.matrix),
            "pixel_accuracy": pixel_accuracy(self.matrix),
            **{f"miou_{name}": mean for name, mean in means.items()},
        }

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """All of it as plain data: metrics and, of a labelled split, IoU by class (None where NaN)
        and the matrix."""
        metrics = {name: _or_none(value) for name, value in self.metrics().items()}
        if not self.labelled:
            return metrics
        per_class = [_or_none(float(value)) for value in self.iou]
        return {
            **metrics,
            "iou": dict(zip(names, per_class, strict=True)),
            "matrix": self.matrix.tolist(),
        }


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


class Picture(NamedTuple):
    """The content of a panel: `image` (H, W, 3) uint8, `truth`, where there are labels, and
    `predicted` (h, w) uint8, `logits` (K, h, w)."""

    key: str
    image: np.ndarray
    truth: np.ndarray | None
    predicted: np.ndarray
    logits: np.ndarray


class Evaluation(NamedTuple):
    """A score, the requested pictures, and those of the images of the lowest mIoU, worst first."""

    score: Score
    pictures: list[Picture]
    worst: Sequence[Picture] = ()


@torch.no_grad()
def evaluate(
    segmenters: Segmenter | Sequence[EnsembleMember],
    split: PackedSplit,
    device: torch.device,
    *,
    views: InferenceConfig = WHOLE_IMAGE,
    subsets: Mapping[str, tuple[int, ...]] = NO_SUBSETS,
    label_free: Sequence[str] = (),
    average: Segmenter | None = None,
    threads: int = 2,
    batch_size: int = 1,
    num_pictures: int = 0,
    num_worst: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    on_image: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate a network, or an ensemble, on all of `split`, shared out over ranks; every rank gets
    the same score, the leader the pictures. Of a labelled split the `num_worst` images are
    predicted anew at the end, since none waits for the device before.

    `label_free` names rows of `LABEL_FREE_SCORES`; a split opened without labels has no others.
    `average` is the network that `teacher_agreement` compares with, on the device too. Up to
    `batch_size` images that follow one another, alike in size, are predicted together.
    `on_image` is called after each image. Where `stopped` returns true before an image on any rank,
    all ranks raise `Interrupted`. Leaves the networks in the mode they were in.
    """
    members = members_of(segmenters)
    counted = _Counted(members[0].segmenter.num_classes, len(split), label_free, device)
    others = () if average is None else members_of(average)
    again = SecondPredictions(members, others, views, device)
    wanted = set(np.linspace(0, len(split) - 1, num_pictures).round().astype(int).tolist())
    pictures = []
    indices = range(rank, len(split), num_ranks)
    predicted = partial(predicted_views, members, split, views=views, threads=threads)
    seen = predicted(indices, _size_of, device, batch_size=batch_size)
    early = False
    with closing(seen), evaluating([one.segmenter for one in others]):
        for number, sample, found in seen:
            early = stopped()
            if early:
                break
            second = partial(again.logits, number, sample.image, _size_of(number, sample))
            counted.add(number, sample.labels, found, second)
            if number in wanted:
                pictures.append(_picture(split.key(number), sample, found.whole()[0]))
            on_image()
    if any_rank(early)[0]:
        raise Interrupted("stopped inside an evaluation")
    score = counted.score(subsets, split.id_table is not None)
    lowest = counted.lowest(num_worst if score.labelled and score.finite else 0)
    drawn = predicted(lowest if rank == 0 else [], _size_of, device)
    worst = [
        _picture(split.key(number), sample, found.whole()[0]) for number, sample, found in drawn
    ]
    return Evaluation(score, pictures, worst)


class _Counted:
    """The counts of the images that a rank evaluates, on the device: nothing waits for it until
    all ranks' are summed. Every rank calls the same methods in the same order."""

    def __init__(
        self, classes: int, images: int, label_free: Sequence[str], device: torch.device
    ) -> None:
        self._matrix = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self._by_image = torch.zeros(images, dtype=torch.float64, device=device)
        self._unusual = torch.zeros((), dtype=torch.int64, device=device)
        self._rows = {name: LABEL_FREE_SCORES[name] for name in label_free}
        sizes = {(row.counts, row.beside): row.size(classes) for row in self._rows.values()}
        self._counts = {counts: self._matrix.new_zeros(size) for counts, size in sizes.items()}

    def add(
        self,
        number: int,
        labels: Tensor | None,
        found: OwnSize,
        second: Callable[[str], Tensor],
    ) -> None:
        """Count an image: labels (H, W) train ids, its logits; `second` makes the second
        predictions that scores name."""
        self._unusual += ~found.finite()
        if labels is not None:
            truth = upload(labels, self._matrix.device)
            one = confusion_matrix(truth, found.class_maps()[0], len(self._matrix))
            self._matrix += one
            self._by_image[number] = iou(one).nanmean()
        if not self._counts:
            return
        logits = found.whole()[0]
        for (counts, beside), summed in self._counts.items():
            summed += counts(logits, *([] if beside is None else [second(beside)]))

    def score(self, subsets: Mapping[str, tuple[int, ...]], labelled: bool) -> Score:
        """The score of all ranks' images."""
        matrix, unusual = sum_over_ranks(self._matrix), sum_over_ranks(self._unusual)
        sums = {counts: sum_over_ranks(one).cpu() for counts, one in self._counts.items()}
        scores = {name: row.value(sums[row.counts, row.beside]) for name, row in self._rows.items()}
        return Score(matrix.cpu(), subsets, not unusual.item(), scores, labelled)

    def lowest(self, count: int) -> list[int]:
        """The images of the lowest mIoU, the lowest first."""
        return _lowest(sum_over_ranks(self._by_image), count)


def _lowest(values: Tensor, count: int) -> list[int]:
    """The places of the lowest values, the lowest first; NaN, of images without a counted pixel,
    has none."""
    order = values.nan_to_num(nan=torch.inf).cpu().argsort(stable=True)
    return [number for number in order[:count].tolist() if values[number].isfinite()]


def _size_of(_index: int, sample: Sample) -> tuple[int, int]:
    """That of the labels, else the image's."""
    height_px, width_px = (sample.image if sample.labels is None else sample.labels).shape[-2:]
    return height_px, width_px


def _picture(key: str, sample: Sample, logits: Tensor) -> Picture:
    return Picture(
        key,
        sample.pixels(),
        None if sample.labels is None else sample.labels.numpy(),
        class_map(logits).to(torch.uint8).cpu().numpy(),
        logits.cpu().numpy(),
    )
