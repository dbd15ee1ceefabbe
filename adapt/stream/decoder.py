"""Draw number -> decoded sample: read, replaced where it is bad and may be skipped, changed,
pinned.

A bad sample is replaced by that of the next draw, whatever was skipped before, so that skipping
needs no state.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from adapt.batch import Sample
from adapt.data.packed.mixture import Mixture
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import DataError
from adapt.stream.augment import AugmentConfig, Changes, WantedClass, change, draw_changes
from adapt.stream.config import TRIES, StreamConfig
from adapt.stream.host_batch import Decoded
from adapt.stream.orders.order import Order
from adapt.stream.orders.random_words import AUGMENTATION, philox


class SampleDecoder(NamedTuple):
    """Decodes the draws of one domain; safe for many threads.

    `augmentations` has one for each part of the split. With `for_device`, samples come in pinned
    memory, with the changes that are to be made on the device.
    """

    split: PackedSplit | Mixture
    order: Order
    augmentations: Sequence[AugmentConfig]
    config: StreamConfig
    for_device: bool = False

    def decode(self, draw: int) -> Decoded:
        """The sample of a draw. Raises `DataError` where it is bad and may not be skipped, and
        `StoreError` where its bytes cannot be fetched."""
        tries, skipped = TRIES[self.config.on_bad_sample], dict[str, str]()
        for candidate in range(draw, draw + tries):
            number = self.order.sample(candidate)
            try:
                sample = _read(self.split, number)
            except DataError as error:
                skipped[self.split.name(number)] = error.problem
                if tries == 1:
                    raise _refusal(error) from error
                continue
            return self._finished(sample, draw, candidate, skipped)
        first = next(iter(skipped.values()))
        raise DataError(
            f"{self.split.uri}: {tries} draws in a row met only bad "
            f"samples, {len(skipped)} of them. The first: {first}"
        )

    def decoded_bytes(self, draws: range) -> int:
        """Bytes of the samples of some draws in memory, before augmentation."""
        return sum(self.split.decoded_bytes(self.order.sample(draw)) for draw in draws)

    def _finished(
        self, sample: Sample, draw: int, candidate: int, skipped: dict[str, str]
    ) -> Decoded:
        number = self.order.sample(candidate)
        key, augmentation = self.split.key(number), self.augmentations[self.split.part_of(number)]
        changes = None
        if augmentation != AugmentConfig():
            changes = self._changes(sample, augmentation, draw, candidate)
        if self.for_device:
            return Decoded(key, _pinned(sample), skipped, changes)
        return Decoded(key, change(sample, changes) if changes else sample, skipped)

    def _changes(
        self, sample: Sample, augmentation: AugmentConfig, draw: int, candidate: int
    ) -> Changes:
        random = np.random.Generator(philox(self.order.seed, self.order.domain, AUGMENTATION, draw))
        train_id = self.order.wanted_class(candidate)
        least_pixels = self.config.rare_class_min_pixels // 2
        wanted = None if train_id is None else WantedClass(train_id, least_pixels)
        return draw_changes(sample, augmentation, random, wanted)


def _read(split: PackedSplit | Mixture, number: int) -> Sample:
    """One sample to train on. Raises as `PackedSplit.read`, and `DataError` where its label does
    not cover its image."""
    sample = split.read(number)
    if sample.labels is not None and sample.labels.shape != sample.image.shape[-2:]:
        raise DataError(
            f"{split.name(number)}: expected a label of {list(sample.image.shape[-2:])} pixels "
            f"(height, width) as its image has, got {list(sample.labels.shape)}",
            fix="pack the split at size_hw, since labels of originals are not resized",
        )
    return sample


def _refusal(error: DataError) -> DataError:
    """The error with the setting that trains without the sample."""
    skip = "set stream.on_bad_sample: skip to train without it"
    return DataError(error.problem, fix=f"{error.fix}, or {skip}" if error.fix else skip)


def _pinned(sample: Sample) -> Sample:
    """The sample in memory that a GPU can fetch by itself."""
    if not torch.accelerator.is_available():
        return sample
    labels = None if sample.labels is None else sample.labels.pin_memory()
    return Sample(sample.image.pin_memory(), labels)
