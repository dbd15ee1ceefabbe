"""ClassMix: half of the classes of a source image pasted onto a target image.

Olsson et al., ClassMix, WACV 2021; across domains in DACS (Tranheden et al., WACV 2021). DACS's
program chooses among an image's classes, DAFormer's among those of the whole batch, both with the
ignored label; here an image's own classes are chosen from, and ignored pixels are never pasted.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.losses import classes_present
from adapt.methods.draws import Draws, sent
from adapt.methods.pseudo_labels import PseudoLabels


class Mixed(NamedTuple):
    """`images` (B, 3, H, W), `labels` (B, H, W), `weights` (B, H, W): 1 where pasted."""

    images: Tensor
    labels: Tensor
    weights: Tensor


def class_mix(
    source: Batch, target: Batch, pseudo: PseudoLabels, num_classes: int, draws: Draws
) -> Mixed:
    """Paste onto each target image half of the classes, rounded up, of a source image.

    Source images are taken in turn, and cut or padded to the target's size at the lower right.
    """
    size_hw = (target.images.shape[-2], target.images.shape[-1])
    source = source.in_turn(len(target.keys))
    assert source.labels is not None
    images = _fitted(source.images, size_hw, 0.0)
    labels = _fitted(source.labels, size_hw, IGNORED)
    keys = [f"{own} {key}" for own, key in zip(source.keys, target.keys, strict=True)]
    pasted = pasted_pixels(labels, num_classes, keys, draws)
    return Mixed(
        torch.where(pasted[:, None], images, target.images),
        torch.where(pasted, labels, pseudo.labels),
        torch.where(pasted, 1.0, pseudo.weights),
    )


def pasted_pixels(labels: Tensor, num_classes: int, keys: list[str], draws: Draws) -> Tensor:
    """(B, H, W) train ids -> bool (B, H, W): the pixels of the drawn half of each image's classes.

    Never waits for the device: absent classes are drawn too, and come last.
    """
    present = classes_present(labels, num_classes)
    drawn = np.stack([draws.of_sample("class mix", key).random(num_classes) for key in keys])
    order = sent(torch.from_numpy(drawn), labels.device).masked_fill(~present, math.inf)
    places = order.argsort(dim=1).argsort(dim=1)
    chosen = present & (places < (present.sum(dim=1, keepdim=True) + 1) // 2)
    counted = labels != IGNORED
    flat = labels.masked_fill(~counted, 0).flatten(start_dim=1)
    return chosen.gather(1, flat).view_as(labels) & counted


def _fitted(tensor: Tensor, size_hw: tuple[int, int], fill: float) -> Tensor:
    """Cut or pad the last two dimensions at the lower right."""
    cut = tensor[..., : size_hw[0], : size_hw[1]]
    below, right = size_hw[0] - cut.shape[-2], size_hw[1] - cut.shape[-1]
    return F.pad(cut, (0, right, 0, below), value=fill) if below or right else cut
