"""The images to choose from as a network finds them: features, entropy, shares of classes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from adapt.data.packed.packed_split import PackedSplit
from adapt.evaluation.inference import decoded, evaluating, upload
from adapt.evaluation.pictures import entropy_map
from adapt.models.segmenter import Segmenter
from adapt.stream.feed import normalise


class Pool(NamedTuple):
    """Of each image of a split: means of the deepest features (N, C), mean entropy (N,) in [0, 1],
    shares of the predicted classes (N, K)."""

    features: Tensor
    entropy: Tensor
    class_shares: Tensor


@torch.no_grad()
def read_pool(
    segmenter: Segmenter,
    split: PackedSplit,
    device: torch.device,
    threads: int = 2,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> Pool:
    """Predict every image of a split, at its own size; no label is read."""
    features, entropies, shares = [], [], []
    with evaluating([segmenter]):
        for number, sample in decoded(split, range(len(split)), threads):
            images = normalise(upload(sample.image, device).contiguous()[None], segmenter.pixels)
            prediction = segmenter(images)
            logits = prediction.logits[0][0].float()
            features.append(prediction.features[-1][0].double().mean(dim=(1, 2)).cpu())
            entropies.append(float(entropy_map(logits).mean()))
            counts = torch.bincount(logits.argmax(dim=0).flatten(), minlength=len(logits)).cpu()
            shares.append(counts.double() / counts.sum())
            on_image(number + 1, len(split))
    return Pool(torch.stack(features), torch.tensor(entropies).double(), torch.stack(shares))


def standard(features: Tensor) -> Tensor:
    """Features (N, C) with mean 0 and deviation 1 of each channel; constant ones become 0."""
    std = features.std(dim=0, correction=0)
    scale = torch.where(std > 1e-9, std, torch.inf)
    return (features - features.mean(dim=0)) / scale
