"""Decoded samples in host memory, and how those of one size are put together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapt.batch import Sample
from adapt.stream.augment import Changes


class Decoded(NamedTuple):
    """One draw's sample under its key, the changes that it is still to undergo, and what was wrong
    with each sample skipped for it, by name."""

    key: str
    sample: Sample
    skipped: dict[str, str]
    changes: Changes | None = None


class HostBatch(NamedTuple):
    """Decoded samples in host memory. `images` (B, 3, H, W) uint8, `labels` (B, H, W) uint8 or
    None, once nothing is left to change."""

    decoded: tuple[Decoded, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The samples' keys."""
        return tuple(one.key for one in self.decoded)

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) uint8 RGB."""
        return stacked_images([one.sample for one in self.decoded])

    @property
    def labels(self) -> Tensor | None:
        """(B, H, W) uint8 train ids, or None."""
        return stacked_labels([one.sample for one in self.decoded])


def stacked_images(samples: Sequence[Sample]) -> Tensor:
    """Images of one size -> (B, 3, H, W); a single one is not copied.

    Their bytes keep the decoders' order, a pixel's colours side by side: turning them into planes
    costs a sixth of the decoding, and nothing on a GPU.
    """
    if len(samples) == 1:
        return samples[0].image[None]
    return torch.stack([sample.image.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)


def stacked_labels(samples: Sequence[Sample]) -> Tensor | None:
    """Labels of one size -> (B, H, W), or None; a single one is not copied."""
    labels = [sample.labels for sample in samples if sample.labels is not None]
    if len(labels) == 1:
        return labels[0][None]
    return torch.stack(labels) if labels else None
