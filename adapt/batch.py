"""The tuples that cross layers, and the legend of shape letters.

B batch, C channels, H and W height and width in pixels, K classes, N samples. Images are float32,
normalised for the network that reads them; labels are train ids.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor


IGNORED = 255
"""The train id of pixels that no loss and no score counts."""


class Batch(NamedTuple):
    """Samples of one domain on the device.

    `images` (B, 3, H, W) float32, normalised; `labels` (B, H, W) int64 train ids with `IGNORED`, or
    None where the domain has none; `keys` the samples' names, for messages.
    """

    images: "Tensor"
    labels: "Tensor | None"
    keys: tuple[str, ...]

    def parts(self, count: int) -> "list[Batch]":
        """The samples in order, in parts of one size."""
        size = len(self.keys) // count
        rows = [slice(part * size, (part + 1) * size) for part in range(count)]
        labels = self.labels
        return [
            Batch(self.images[own], None if labels is None else labels[own], self.keys[own])
            for own in rows
        ]

    def in_turn(self, count: int) -> "Batch":
        """So many samples: the batch's in order, from the first again where they end."""
        size = len(self.keys)
        if count == size:
            return self

        def repeated(tensor: "Tensor") -> "Tensor":
            times = -(-count // size)
            return tensor.repeat(times, *(1 for _ in tensor.shape[1:]))[:count]

        labels = None if self.labels is None else repeated(self.labels)
        keys = tuple(self.keys[number % size] for number in range(count))
        return Batch(repeated(self.images), labels, keys)


class Prediction(NamedTuple):
    """The output of a segmentation network.

    `logits`: one tensor (B, K, H, W) a head, main head first, at input size; `features`: the
    encoder's stages, shallow to deep; `extra`: side outputs by name.
    """

    logits: "tuple[Tensor, ...]"
    features: "tuple[Tensor, ...]"
    extra: "dict[str, Tensor]"


class PixelFormat(NamedTuple):
    """How uint8 RGB becomes a network's input: (RGB / 255 - mean) / std, or (BGR - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


class Sample(NamedTuple):
    """One decoded sample: `image` (3, H, W) uint8 RGB, `labels` (H, W) uint8 train ids or None."""

    image: "Tensor"
    labels: "Tensor | None"

    @property
    def image_hw(self) -> tuple[int, int]:
        """The image's height and width."""
        return self.image.shape[-2], self.image.shape[-1]

    def pixels(self) -> "npt.NDArray[np.uint8]":
        """The image as (H, W, 3) uint8 RGB, a row after the other in memory."""
        pixels: npt.NDArray[np.uint8] = self.image.permute(1, 2, 0).contiguous().numpy()
        return pixels
