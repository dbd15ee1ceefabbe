"""A stream's batches on the device: moved as uint8, then augmented and normalised there.

On a GPU one batch is under way, on a stream of the device of its own, while the network works on
the one before. What has been handed out counts for a checkpoint, not what is under way.
"""

from contextlib import nullcontext
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from adapt.accelerator import is_accelerator
from adapt.batch import Batch, PixelFormat, Sample
from adapt.stream.augment import change
from adapt.stream.host_batch import Decoded, HostBatch, stacked_images, stacked_labels
from adapt.stream.stream import Stream


class Feed:
    """Iterates over a stream's batches on `device`, in the network's pixel format.

    `draw` is the first draw no batch has been handed out for. `next` raises as `Stream`.
    """

    def __init__(self, stream: Stream, pixels: PixelFormat, device: torch.device) -> None:
        self.stream, self.pixels, self.device = stream, pixels, device
        self.draw = stream.draw
        self._copies = torch.Stream(device) if is_accelerator(device) else None
        self._coming: tuple[Batch, int] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        batch, self.draw = self._coming or self._start()
        if self._copies is not None:
            current = torch.accelerator.current_stream(self.device)
            current.wait_stream(self._copies)
            for tensor in (batch.images, batch.labels):
                if tensor is not None:
                    tensor.record_stream(current)
            self._coming = self._start() if self.stream.next_is_ready else None
        return batch

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint: see `Stream.state`."""
        return self.stream.state(self.draw)

    def _start(self) -> tuple[Batch, int]:
        """The next batch, on its way where the device is a GPU, and the draw after it."""
        host = next(self.stream)
        with self._copies or nullcontext():
            return to_device(host, self.pixels, self.device), self.stream.draw


def to_device(batch: HostBatch, pixels: PixelFormat, device: torch.device) -> Batch:
    """uint8 samples -> a `Batch` on the device: changed where they still are to be, normalised."""
    samples = [_changed(one, device) for one in batch.decoded]
    labels = stacked_labels(samples)
    images = normalise(stacked_images(samples), pixels)
    return Batch(images, None if labels is None else labels.long(), batch.keys)


def _changed(decoded: Decoded, device: torch.device) -> Sample:
    image, labels = (
        None if tensor is None else tensor.to(device, non_blocking=True)
        for tensor in decoded.sample
    )
    assert image is not None
    sample = Sample(image, labels)
    return sample if decoded.changes is None else change(sample, decoded.changes)


def normalise(images: Tensor, pixels: PixelFormat) -> Tensor:
    """(B, 3, H, W) uint8 RGB -> float32 as `pixels` says: RGB / 255 or BGR, minus mean, over
    deviation; contiguous, whatever the order of the bytes was."""
    mean, deviation = _constants(pixels, images.device)
    ordered = images.flip(1).float() if pixels.bgr else images.float() / 255
    return ((ordered - mean) / deviation).contiguous()


@cache
def _constants(pixels: PixelFormat, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3, 1, 1) on the device; sending them each time would make a GPU wait."""
    mean, deviation = (torch.tensor(values, device=device) for values in (pixels.mean, pixels.std))
    return mean.view(3, 1, 1), deviation.view(3, 1, 1)
