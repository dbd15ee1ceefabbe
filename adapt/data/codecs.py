"""Bytes of one packed sample <-> uint8 arrays, and the papers' resizing.

Images: QOI (lossless, decodes five times faster than PNG), JPEG 95 4:4:4, or the PNG or JPEG the
owner shipped. Labels: dataset ids, one byte a pixel, zstandard. Resizing is Pillow's
(BICUBIC for images, NEAREST for labels) because AdaptSegNet's and ADVENT's loaders use it, and
OpenCV and torchvision give other pixels.
"""

import io
import struct
import warnings
import zlib

import numpy as np
import numpy.typing as npt
import qoi
import simplejpeg
import zstandard
from PIL import Image

from adapt.errors import DataError

Pixels = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = ("qoi", "png", "jpg")
JPEG_QUALITY = 95
LABEL_LEVEL = 12
"""Level 19 takes 14 times as long for labels 15 % smaller, and labels are 1 % of a shard."""

PILLOW_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on broken files, each seen in practice."""


def decode_image(data: bytes, suffix: str, name: str) -> Pixels:
    """Bytes of a `qoi`, `png` or `jpg` -> (H, W, 3) uint8 RGB. `DataError` names the sample."""
    try:
        if suffix == "qoi":
            return qoi.decode(data, channels=3)
        if suffix == "jpg":
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        if suffix == "png":
            return read_rgb(io.BytesIO(data))
    except (RuntimeError, MemoryError, *PILLOW_FAILURES) as error:
        raise DataError(f"{name}: the image cannot be decoded as {suffix}: {error}") from error
    raise DataError(f"{name}: unknown image suffix {suffix!r} (known: {', '.join(IMAGE_SUFFIXES)})")


def encode_image(images: Pixels, suffix: str) -> bytes:
    """(H, W, 3) uint8 RGB -> bytes of `qoi` (lossless) or `jpg` (quality 95, 4:4:4)."""
    assert images.ndim == 3 and images.shape[2] == 3 and images.dtype == np.uint8, images.shape
    contiguous = np.ascontiguousarray(images)
    if suffix == "qoi":
        return qoi.encode(contiguous)
    assert suffix == "jpg", suffix
    return simplejpeg.encode_jpeg(contiguous, quality=JPEG_QUALITY, colorsubsampling="444")


def read_rgb(file: io.BytesIO | str) -> Pixels:
    """An image file that Pillow knows -> (H, W, 3) uint8 RGB. Raises one of `PILLOW_FAILURES`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            return np.array(image.convert("RGB"))


def encode_label(labels: Pixels) -> bytes:
    """(H, W) uint8 ids -> a zstandard frame that carries its length and a checksum."""
    assert labels.ndim == 2 and labels.dtype == np.uint8, (labels.shape, labels.dtype)
    compressor = zstandard.ZstdCompressor(level=LABEL_LEVEL, write_checksum=True)
    return compressor.compress(np.ascontiguousarray(labels).tobytes())


def decode_label(data: bytes, height_px: int, width_px: int, name: str) -> Pixels:
    """A zstandard frame -> (height_px, width_px) uint8 ids, read-only.

    The frame's own length must be the picture's before a byte is allocated, so a lying header
    cannot eat the memory. `DataError` names the sample.
    """
    expected_bytes = height_px * width_px
    try:
        found_bytes = zstandard.frame_content_size(data)
        if found_bytes != expected_bytes:
            raise DataError(
                f"{name}: the label has {found_bytes} pixels, "
                f"expected {height_px}x{width_px} = {expected_bytes}"
            )
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=expected_bytes)
    except zstandard.ZstdError as error:
        raise DataError(f"{name}: the label cannot be decoded as zstandard: {error}") from error
    return np.frombuffer(raw, dtype=np.uint8).reshape(height_px, width_px)


def resize_image(images: Pixels, size_hw: tuple[int, int]) -> Pixels:
    """(H, W, 3) uint8 -> (*size_hw, 3) uint8 by Pillow's BICUBIC (with its antialiasing), as the
    papers did.
    """
    height_px, width_px = size_hw
    resized = Image.fromarray(images).resize((width_px, height_px), Image.Resampling.BICUBIC)
    return np.array(resized)


def resize_label(labels: Pixels, size_hw: tuple[int, int]) -> Pixels:
    """(H, W) uint8 -> (*size_hw) uint8 by Pillow's NEAREST, as the papers did."""
    height_px, width_px = size_hw
    resized = Image.fromarray(labels).resize((width_px, height_px), Image.Resampling.NEAREST)
    return np.array(resized)
