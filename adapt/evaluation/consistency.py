"""How far two predictions of the same image agree, as mIoU of their classes.

A network that is right is right on the mirrored image and under other colours too, and a student
agrees with its average once both have converged: Talks et al., Unsupervised and Source-Free Ranking
of Biomedical Segmentation Models, 2025 (arXiv 2503.00450) rank networks by such agreement, also
after adaptation. Unlike the mIoU of labels, a class that neither prediction has counts 0: one class
everywhere, the same under any change, has 1 / K.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from adapt.evaluation.inference import (
    EnsembleMember,
    InferenceConfig,
    class_map,
    predict_batch,
    upload,
)
from adapt.evaluation.metrics import confusion_matrix, iou

MIRRORED, RECOLOURED, AVERAGE = "mirrored", "recoloured", "average"
"""Predictions of the mirrored image, of the image in other colours, and of the moving average (of
the average: that of the student)."""

_STRENGTH, _TURN = 0.2, 0.05
"""Brightness, contrast and saturation change by this share at most, the hue by this part of a turn:
a change of weather or camera, after which a person sees the same classes."""


def class_pairs(logits: Tensor, others: Tensor) -> Tensor:
    """(K, H, W) twice -> (K * K,) int64: pixels by the classes of both, the second's as rows."""
    classes = len(logits)
    return confusion_matrix(class_map(others), class_map(logits), classes).flatten()


def consistency(counts: Tensor) -> float:
    """The mean over all K classes of the IoU of two predictions' classes, in [0, 1]: (K * K,) of
    `class_pairs`; 0 for a class that neither has, NaN without pixels."""
    if not counts.any():
        return float("nan")
    classes = round(len(counts) ** 0.5)
    return iou(counts.view(classes, classes)).nan_to_num(nan=0.0).mean().item()


def recoloured(image: Tensor, number: int) -> Tensor:
    """(3, H, W) uint8 RGB -> the same in other colours, which the image's number decides: the same
    for every network, rank and evaluation."""
    from torchvision.transforms import functional  # takes a second

    drawn = np.random.Generator(np.random.Philox(key=number)).uniform(-1, 1, size=4)
    brightness, contrast, saturation = (1 + _STRENGTH * drawn[:3]).tolist()
    changed = functional.adjust_brightness(image, brightness)
    changed = functional.adjust_contrast(changed, contrast)
    changed = functional.adjust_saturation(changed, saturation)
    return functional.adjust_hue(changed, _TURN * drawn[3].item())


class SecondPredictions:
    """Further predictions of an image by `members`, or by their `average` where there is one, all
    on `device`."""

    def __init__(
        self,
        members: Sequence[EnsembleMember],
        average: Sequence[EnsembleMember],
        views: InferenceConfig,
        device: torch.device,
    ) -> None:
        self._device = device

        def by(
            networks: Sequence[EnsembleMember], image: Tensor, size_hw: tuple[int, int]
        ) -> Tensor:
            return predict_batch(networks, image[None], size_hw, views)[0]

        self._by_name: Mapping[str, Callable[[Tensor, int, tuple[int, int]], Tensor]] = {
            MIRRORED: lambda image, _, size_hw: by(members, image.flip(-1), size_hw).flip(-1),
            RECOLOURED: lambda image, number, size_hw: by(
                members, recoloured(image, number), size_hw
            ),
            AVERAGE: lambda image, _, size_hw: by(average, image, size_hw),
        }

    def logits(self, number: int, image: Tensor, size_hw: tuple[int, int], name: str) -> Tensor:
        """(3, H, W) uint8 of the split's sample `number` -> logits (K, *size_hw), each pixel at its
        place in the image as it is."""
        return self._by_name[name](upload(image, self._device), number, size_hw)
