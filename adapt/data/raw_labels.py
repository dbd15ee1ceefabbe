"""Reading the labels of raw datasets: one file -> (H, W) uint8 ids."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapt.data.packed.codecs import PILLOW_FAILURES
from adapt.data.packed.encodings import REPLACE_FILE
from adapt.errors import DataError


def read_ids(path: Path) -> npt.NDArray[np.uint8]:
    """A single-channel label -> (H, W) uint8 ids. Palette files are read as indices, which are the
    ids.

    Raises `DataError` naming the file: undecodable, a colour image, values over 255.
    """
    try:
        with Image.open(path) as image:
            mode, ids = image.mode, np.asarray(image)
    except PILLOW_FAILURES as error:
        raise DataError(f"{path}: corrupt label: {error}", fix=REPLACE_FILE) from error
    if mode not in ("L", "P") and not mode.startswith("I"):
        raise DataError(
            f"{path}: expected a single-channel PNG of ids, got mode {mode}",
            fix="use label files of ids, not colour images",
        )
    return narrow(ids, path)


def read_synthia_ids(path: Path) -> npt.NDArray[np.uint8]:
    """SYNTHIA's GT/LABELS (16-bit RGB, the id in the first channel) or single-channel parsed_LABELS
    -> (H, W) uint8.

    Pillow keeps only one byte of a 16-bit channel; which one is the raw mode's byte order, so
    reading with both orders gives all 16 bits. (torchvision reads 16 bits too, but a corrupt PNG
    ends its process.)
    """
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                return read_ids(path)
            deep = image.tile[0].args == "RGB;16B"
        if not deep:
            return first_channel(path, None)
        high, low = first_channel(path, "RGB;16B"), first_channel(path, "RGB;16L")
    except PILLOW_FAILURES as error:
        raise DataError(f"{path}: corrupt label: {error}", fix=REPLACE_FILE) from error
    return narrow(high.astype(np.uint16) * 256 + low, path)


def first_channel(path: Path, raw_mode: str | None) -> npt.NDArray[np.uint8]:
    """The first channel of an RGB image -> (H, W) uint8, decoded with another raw mode where one is
    given.
    """
    with Image.open(path) as image:
        if raw_mode:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.ascontiguousarray(np.asarray(image)[..., 0])


def narrow(ids: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """Ids of any integer type -> uint8. `DataError` where one does not fit."""
    if ids.dtype != np.uint8 and ids.size and not 0 <= ids.min() <= ids.max() <= 255:
        raise DataError(
            f"{path}: expected ids from 0 to 255 in the label, got {int(ids.max())}",
            fix=REPLACE_FILE,
        )
    return np.ascontiguousarray(ids, dtype=np.uint8)
