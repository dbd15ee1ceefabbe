"""Reading the labels of raw datasets: one file -> (H, W) uint8 ids.

An id is the number that the file stores, not the shade that a viewer shows. Lossy formats hold
other numbers than were written, so they are refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from adapt.data.archives import readable
from adapt.data.colours import ColourTable
from adapt.data.packed.codecs import PILLOW_FAILURES, rgb_of
from adapt.data.problems import REPLACE_FILE
from adapt.data.raw_images import (
    ImageHeader,
    corruption,
    raw_mode_of,
    read_header,
    verify,
)
from adapt.errors import DataError

SAVE_AGAIN = "save labels as PNG of 8 bits whose values are ids"
USE_COLOURS = "use label files of ids, or map colours to ids with --colours SPEC or TABLE"

LOSSY_FORMATS = frozenset(("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF", "DDS", "FLI"))
"""Formats that may change a pixel; JPEG 2000 and AVIF do not state whether they have."""
LOSSY_TIFF = frozenset(("jpeg", "tiff_jpeg", "webp", "lerc", "jp2000"))
WEBP_LOSSLESS = b"VP8L"
WEBP_HEAD_BYTES = 1 << 16

SHADES = {"1": 1, "L": 1, "P": 1, "P;1": 1, "P;2": 1, "P;4": 1, "L;2": 85, "L;4": 17}
"""Stored pixels by Pillow's name -> the factor by which it spreads ids of few bits to shades."""
WHOLE = ("I;16", "I;32")
"""Openings of the names of integers, which Pillow keeps."""


def lossy(path: Path, header: ImageHeader) -> str | None:
    """The name of a label's lossy format, None where it keeps every pixel."""
    if header.format in LOSSY_FORMATS:
        return header.format
    if header.format == "TIFF" and header.compression in LOSSY_TIFF:
        return f"TIFF with {header.compression}"
    if header.format == "WEBP":
        with path.open("rb") as file:
            return None if WEBP_LOSSLESS in file.read(WEBP_HEAD_BYTES) else "lossy WebP"
    return None


def lossy_fault(path: Path, header: ImageHeader) -> str | None:
    """The reason why no label may be of this format, None where it may."""
    found = lossy(path, header)
    if found is None:
        return None
    return f"expected a lossless label, got {found}, whose pixels are not those that were written"


def stored_fault(header: ImageHeader) -> str | None:
    """The reason why stored pixels are no ids, None where they are."""
    if header.frames > 1:
        return f"expected one label in the file, got {header.frames}"
    if header.format == "GIF":
        return "expected a PNG of ids, got GIF, whose writers number the colours anew"
    if header.mode not in ("1", "L", "P") and not header.mode.startswith("I"):
        return f"expected a single-channel PNG of ids, got mode {header.mode}"
    stored = header.raw_mode.removesuffix("R")  # the order of bits in a byte, which Pillow heeds
    if header.white_is_zero or not (stored in SHADES or stored.startswith(WHOLE)):
        return f"expected ids as they are, got inverted or scaled ones ({header.raw_mode})"
    return None


def read_ids(path: Path) -> npt.NDArray[np.uint8]:
    """A single-channel label -> (H, W) uint8 ids. Palette files are read as indices, which are the
    ids; ids of 1, 2, 4 and 16 bits are read as the numbers that are stored.

    Raises `DataError` naming the file: undecodable, lossy, a colour image, values over 255.
    """
    with label_errors(path):
        header = read_header(path)
        refuse_fault(path, lossy_fault(path, header) or stored_fault(header))
        verify(path)
        with Image.open(readable(path)) as image:
            return narrow(stored_ids(image), path)


def stored_ids(image: Image.Image) -> npt.NDArray[np.integer]:
    """An open label of one channel -> (H, W) integers as stored, upright."""
    tiles: list[Any] = getattr(image, "tile", [])
    raw_mode = raw_mode_of(image).removesuffix("R")
    ImageOps.exif_transpose(image, in_place=True)
    values = np.asarray(image)
    if tiles and tiles[0].codec_name in SCALING_CODECS:
        most = tiles[0].args[1]
        return np.rint(values * (most / (65535 if image.mode == "I" else 255))).astype(np.int64)
    return values.astype(np.uint8) if raw_mode == "1" else values // SHADES.get(raw_mode, 1)


SCALING_CODECS = ("ppm", "ppm_plain")
"""Pillow's decoders that spread 0..maxval over all bits."""


def read_colours(path: Path, colours: ColourTable) -> npt.NDArray[np.uint8]:
    """A colour label -> (H, W) uint8 ids of its exact colours.

    Raises `UnknownColours` for others, `DataError` as `read_colour_pixels`.
    """
    return colours.ids_of(read_colour_pixels(path), path)


def read_colour_pixels(path: Path) -> npt.NDArray[np.uint8]:
    """A colour label -> (H, W, 3) uint8 RGB, upright. Raises `DataError` naming a file that is
    undecodable, lossy or transparent.
    """
    with label_errors(path):
        header = read_header(path)
        refuse_fault(path, lossy_fault(path, header) or colour_fault(header))
        verify(path)
        with Image.open(readable(path)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            refuse_fault(path, transparent_fault(image))
            return rgb_of(image)


def transparent_fault(image: Image.Image) -> str | None:
    """The reason why an open label's colours are not all that is there, None where they are. Alpha
    is a channel, or belongs to colours of a palette, or one colour is transparent.
    """
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        return "expected opaque colours, got transparent pixels"
    return None


def colour_fault(header: ImageHeader) -> str | None:
    """The reason why a label's colours cannot be read exactly, None where they can."""
    if header.frames > 1:
        return f"expected one label in the file, got {header.frames}"
    if header.deep or header.mode not in COLOURED:
        return f"expected colours of 8 bits a channel, got {header.raw_mode}"
    return None


COLOURED = frozenset(("1", "L", "P", "RGB", "RGBA"))
"""Modes that convert to RGB without loss."""


def refuse_fault(path: Path, fault: str | None) -> None:
    """`DataError` for a fault, with its fix."""
    if fault is not None:
        raise DataError(f"{path}: {fault}", fix=USE_COLOURS if "got mode" in fault else SAVE_AGAIN)


@contextmanager
def label_errors(path: Path) -> Iterator[None]:
    """Turns Pillow's failures into a `DataError` that names the file."""
    try:
        yield
    except PILLOW_FAILURES as error:
        text = corruption(path, error)
        raise DataError(f"{path}: corrupt label: {text}", fix=REPLACE_FILE) from error


def read_synthia_ids(path: Path) -> npt.NDArray[np.uint8]:
    """SYNTHIA's GT/LABELS (16-bit RGB, the id in the first channel) or single-channel parsed_LABELS
    -> (H, W) uint8.

    Pillow keeps only one byte of a 16-bit channel; which one is the raw mode's byte order, so
    reading with both orders gives all 16 bits. (torchvision reads 16 bits too, but a corrupt PNG
    ends its process.)
    """
    with label_errors(path):
        header = read_header(path)
        refuse_fault(path, lossy_fault(path, header))
        if header.mode != "RGB":
            return read_ids(path)
        verify(path)
        if header.raw_mode != "RGB;16B":
            return first_channel(path, None)
        high, low = first_channel(path, "RGB;16B"), first_channel(path, "RGB;16L")
    return narrow(high.astype(np.uint16) * 256 + low, path)


def read_red_ids(path: Path) -> npt.NDArray[np.uint8]:
    """CARLA's semantic camera, saved as it is: RGB or RGBA of 8 bits, the tag in the red channel;
    or single-channel ids -> (H, W) uint8.
    """
    with label_errors(path):
        header = read_header(path)
        refuse_fault(path, lossy_fault(path, header))
        if header.mode not in ("RGB", "RGBA") or header.deep:
            return read_ids(path)
        verify(path)
        return first_channel(path, None)


def first_channel(path: Path, raw_mode: str | None) -> npt.NDArray[np.uint8]:
    """The first channel of an RGB image -> (H, W) uint8, decoded with another raw mode where one is
    given.
    """
    with Image.open(readable(path)) as image:
        if raw_mode:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.ascontiguousarray(np.asarray(image)[..., 0])


def narrow(ids: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """Ids of any integer type -> uint8. `DataError` where one does not fit."""
    if ids.dtype != np.uint8 and ids.size and not 0 <= ids.min() <= ids.max() <= 255:
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise DataError(
            f"{path}: expected ids from 0 to 255 in the label, got {int(worst)}",
            fix=REPLACE_FILE,
        )
    return np.ascontiguousarray(ids, dtype=np.uint8)
