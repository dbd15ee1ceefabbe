"""Scores of a segmentation, all from one confusion matrix summed over the whole data set.

Rows are the true classes, columns the predicted ones. Pixels that are `IGNORED` in the labels are
not counted. A class that is neither in the labels nor predicted has an IoU of NaN and no part in
the mean.
"""

import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Pixels by true and predicted class: integers (..., H, W) twice -> (K, K) int64, same device.

    Labels outside 0..K-1 (`IGNORED` among them) are left out; `predicted` must lie within 0..K-1.
    """
    counted = (labels >= 0) & (labels < num_classes)
    cells = labels[counted].long() * num_classes + predicted[counted].long()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union by class: (K, K) -> (K,) float64; NaN where a class never occurs."""
    counts = matrix.double()
    intersection = counts.diagonal()
    return intersection / (counts.sum(dim=0) + counts.sum(dim=1) - intersection)


def miou(matrix: Tensor) -> float:
    """Mean IoU over the classes that occur, in [0, 1]; NaN for an empty matrix."""
    return iou(matrix).nanmean().item()


def pixel_accuracy(matrix: Tensor) -> float:
    """Share of the counted pixels that are right, in [0, 1]; NaN for an empty matrix."""
    counts = matrix.double()
    return (counts.diagonal().sum() / counts.sum()).item()
