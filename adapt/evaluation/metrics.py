"""Scores of a segmentation, all from one confusion matrix summed over the whole data set.

Rows are the true classes, columns the predicted ones. Pixels that are `IGNORED` in the labels are
not counted. A class that is neither in the labels nor predicted has an IoU of NaN and no part in
the mean. SYNTHIA's reports of 16 and 13 classes are means over rows of the same matrix.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from math import isnan, nan
from operator import add

import torch
from torch import Tensor

from adapt.errors import JobError

SYNTHIA13 = (
    "road",
    "sidewalk",
    "building",
    "traffic light",
    "traffic sign",
    "vegetation",
    "sky",
    "person",
    "rider",
    "car",
    "bus",
    "motorcycle",
    "bicycle",
)

SUBSETS: dict[str, tuple[str, ...]] = {
    "synthia16": (*SYNTHIA13, "wall", "fence", "pole"),
    "synthia13": SYNTHIA13,
}
"""Classes by name that a mean may be restricted to: Cityscapes' without terrain, truck and train,
which SYNTHIA lacks, and those without wall, fence and pole (the papers' mIoU and mIoU*)."""

LABEL_VALUES = 256
"""Labels are bytes: train ids, and others that are not counted."""


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Pixels by true and predicted class: integers (..., H, W) twice -> (K, K) int64, same device.

    Labels from K to 255 (`IGNORED` among them) are left out; `predicted` must lie within 0..K-1.
    They are counted in rows of their own that are cut off, because picking pixels by a mask, as
    bincount does too, makes a GPU wait for the host, and takes the CPU longer.
    """
    cells = (labels.int() * num_classes + predicted.int()).flatten()
    counts = torch.zeros(LABEL_VALUES * num_classes, dtype=torch.int64, device=cells.device)
    counts.index_add_(0, cells, counts.new_ones(()).expand_as(cells))
    return counts.view(LABEL_VALUES, num_classes)[:num_classes]


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union by class: (K, K) -> (K,) float64; NaN where a class never occurs."""
    counts = matrix.double()
    intersection = counts.diagonal()
    return intersection / (counts.sum(dim=0) + counts.sum(dim=1) - intersection)


def miou(matrix: Tensor, classes: Sequence[int] | None = None) -> float:
    """Mean IoU in [0, 1] over those of `classes` (train ids; None: all) that occur; NaN where none
    does.
    """
    values = iou(matrix).tolist()
    return mean_of_known(values if classes is None else [values[index] for index in classes])


def mean_of_known(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN without any.

    Added one after the other, as cityscapesScripts does: numpy adds in pairs, Python's `sum`
    compensates, and either changes the last digit.
    """
    known = [value for value in values if not isnan(value)]
    return reduce(add, known) / len(known) if known else nan


def pixel_accuracy(matrix: Tensor) -> float:
    """Share of the counted pixels that are right, in [0, 1]; NaN for an empty matrix."""
    counts = matrix.double()
    return (counts.diagonal().sum() / counts.sum()).item()


def subset_classes(subsets: Iterable[str], names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Train ids of each of these `SUBSETS` among the classes of a job, by their names.

    Raises `JobError` where the job lacks one of them.
    """
    found = {}
    for subset in subsets:
        missing = [name for name in SUBSETS[subset] if name not in names]
        if missing:
            raise JobError(
                f"evaluate.subsets: expected subsets of the job's classes, got {subset!r}, which "
                f"also has {', '.join(map(repr, missing))}",
                fix="remove it, or train cityscapes19 or cityscapes16",
            )
        found[subset] = tuple(sorted(names.index(name) for name in SUBSETS[subset]))
    return found
