"""`Segmentation`: one image's classes, how sure the network is of them, and pictures of both."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import Pixels
from adapt.errors import DataError, JobError, known_names
from adapt.evaluation import pictures
from adapt.evaluation.inference import class_map
from adapt.evaluation.prediction_files import ids_of_classes

_LOSSLESS = (".png", ".tif", ".tiff")
"""Endings of files whose pixels are numbers, which no compression may change."""


class Segmentation:
    """A predicted image. All arrays have the size of the image that was given, upright.

    `image`: (H, W, 3) uint8 RGB, as the network was given it. `class_map`: (H, W) uint8 train ids,
    which number `classes`. `entropy`: (H, W) float32, Shannon's over its largest value log K, from
    0 (sure) to 1. `name`: the image's path, URI or number.
    """

    def __init__(
        self,
        name: str,
        image: Pixels,
        logits: Tensor,
        classes: LabelSpace,
        again: Callable[[], Tensor],
    ) -> None:
        self.name, self.image, self.classes = name, image, classes
        self.class_map: Pixels = class_map(logits).byte().cpu().numpy()
        self.entropy: NDArray[np.float32] = pictures.entropy_map(logits)
        self._again = again
        if not np.isfinite(self.entropy).all():
            raise DataError(f"{name}: expected finite logits, got NaN or infinity")

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(K, H, W) float32 in [0, 1], by train id; they sum to 1 at each pixel.

        Of an image that was given in a list the network computes them anew at each access: kept,
        those of a large list would fill the memory.
        """
        found: NDArray[np.float32] = self._again().softmax(dim=0).cpu().numpy()
        return found

    @property
    def colours(self) -> Pixels:
        """(H, W, 3) uint8 RGB: each pixel in its class's colour."""
        return pictures.colourise(self.class_map, self.classes.colours)

    def overlay(self, opacity: float = 0.5) -> Pixels:
        """(H, W, 3) uint8 RGB: the colours over the image; `opacity` in [0, 1] is their share.

        Raises `JobError` for another share.
        """
        if not 0 <= opacity <= 1:
            raise JobError(f"opacity: expected a share from 0 to 1, got {opacity!r}")
        return pictures.overlay(self.image, self.class_map, self.classes.colours, opacity)

    def ids(self, dataset: str) -> Pixels:
        """(H, W) uint8: the dataset's own label ids, the first where a class has several.

        Raises `JobError` where a class has none.
        """
        return ids_of_classes(self.classes, dataset)[self.class_map]

    def save(self, path: str | os.PathLike[str], picture: str = "colours") -> None:
        """Write one of `PICTURES`: `colours`, `overlay`, `entropy` or `class_map`.

        As PNG, `colours` is a palette image whose values are the train ids. Raises `JobError` for
        another name, for a format that Pillow cannot write or that would change a class map, and
        for a folder that is not there.
        """
        out = Path(path)
        if picture not in PICTURES:
            raise JobError(f"picture: expected a known name, {known_names(picture, PICTURES)}")
        if picture == "class_map" and out.suffix.lower() not in _LOSSLESS:
            raise JobError(
                f"{out}: expected a file of {', '.join(_LOSSLESS)} for a class map, got "
                f"{out.suffix or 'no ending'}",
                "name a .png",
            )
        drawn = PICTURES[picture](self)
        if out.suffix.lower() != ".png" and drawn.mode == "P":
            drawn = drawn.convert("RGB")
        try:
            drawn.save(out)
        except (OSError, ValueError, KeyError) as error:
            raise JobError(
                f"{out}: expected a file of pictures that can be written, got: {error}",
                "name a .png in a folder that is there",
            ) from error

    def __repr__(self) -> str:
        height, width = self.class_map.shape
        return f"Segmentation({self.name!r}, {height}x{width}, {self.classes.num_classes} classes)"


def _palette(one: Segmentation) -> Image.Image:
    picture = Image.fromarray(one.class_map)
    picture.putpalette([part for colour in one.classes.colours for part in colour])
    return picture


PICTURES: dict[str, Callable[[Segmentation], Image.Image]] = {
    "colours": _palette,
    "overlay": lambda one: Image.fromarray(one.overlay()),
    "entropy": lambda one: Image.fromarray(pictures.heat(one.entropy)),
    "class_map": lambda one: Image.fromarray(one.class_map),
}
"""By the argument of `Segmentation.save`: the classes' colours, these over the image, the entropy
from black (sure) to pale yellow (unsure), the train ids."""
