"""Bytes of one packed sample <-> uint8 arrays, and the papers' resizing.

Images: QOI (lossless, decodes five times faster than PNG), JPEG 95 4:4:4, or the PNG or JPEG the
owner shipped. Labels: dataset ids, one byte a pixel, zstandard. Resizing is Pillow's
(BICUBIC for images, NEAREST for labels) because AdaptSegNet's and ADVENT's loaders use it, and
OpenCV and torchvision give other pixels. Bytes may come from a stranger: the size that they
state is checked before memory is allocated for it.
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import qoi
import simplejpeg
import zstandard
from PIL import Image

from adapt.data.packed.image_headers import Encoded, jpeg_size_hw, png_size_hw, qoi_size_hw
from adapt.errors import DataError

Pixels = npt.NDArray[np.uint8]

PACK_AGAIN = "pack the split again (--overwrite)"
"""Of a split that is as it was written, by another version."""
REPACK = f"copy the objects there again, or {PACK_AGAIN}"
"""Of damaged objects: the first is safe, the second replaces all of them."""

MAX_SIDE_PX = 32_768
"""No camera's pictures are larger; codecs count pixels in 32 bits."""
MAX_PIXELS = 1 << 28
"""An image of so many pixels takes 805 MB decoded, the limit of a decoding thread."""
Image.MAX_IMAGE_PIXELS = max(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or 0)
"""Pillow's own limit, above which it warns, and raises above its double; ours is checked first."""
JPEG_QUALITY = 95
LABEL_LEVEL = 12
"""Level 19 takes 14 times as long for labels 15 % smaller, and labels are 1 % of a shard."""

PILLOW_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Errors of Pillow on broken files, each seen in practice or in fuzzing."""


def decode_image(
    data: Encoded, suffix: str, name: str, size_hw: tuple[int, int] | None = None
) -> Pixels:
    """Bytes of a `qoi`, `png` or `jpg` -> (H, W, 3) uint8 RGB.

    `DataError` names the sample where they are of another size than `size_hw`, of more pixels than
    `MAX_PIXELS`, or broken; sizes are compared before memory is allocated.
    """
    if suffix not in IMAGE_CODECS:
        known = ", ".join(IMAGE_CODECS)
        raise DataError(
            f"{name}: expected an image suffix of {known}, got {suffix!r}", fix=PACK_AGAIN
        )
    codec = IMAGE_CODECS[suffix]
    try:
        check_size(codec.size_hw(data), size_hw, name)
        return codec.decode(data)
    except PILLOW_FAILURES as error:
        raise DataError(
            f"{name}: the image cannot be decoded as {suffix}: {error}", fix=REPACK
        ) from error


def check_size(found_hw: tuple[int, int], size_hw: tuple[int, int] | None, name: str) -> None:
    """`DataError` where an image's header states another size than expected, or a gigantic one."""
    if size_hw is not None and found_hw != tuple(size_hw):
        raise DataError(
            f"{name}: expected an image of {list(size_hw)} pixels (height, width) as its label and "
            f"the index have, got {list(found_hw)}",
            fix=REPACK,
        )
    if max(found_hw) > MAX_SIDE_PX or found_hw[0] * found_hw[1] > MAX_PIXELS:
        raise DataError(
            f"{name}: expected an image with sides of at most {MAX_SIDE_PX} pixels and "
            f"{MAX_PIXELS} pixels in all, got {list(found_hw)} (height, width)",
            fix="pack it smaller (--size-hw)",
        )


def encode_image(images: Pixels, suffix: str) -> bytes:
    """(H, W, 3) uint8 RGB -> bytes of `qoi` (lossless) or `jpg` (quality 95, 4:4:4)."""
    assert images.ndim == 3 and images.shape[2] == 3 and images.dtype == np.uint8, images.shape
    encode = IMAGE_CODECS[suffix].encode
    assert encode is not None, suffix
    return encode(np.ascontiguousarray(images))


def read_rgb(file: io.BytesIO | str) -> Pixels:
    """An image file that Pillow knows -> (H, W, 3) uint8 RGB. Raises one of `PILLOW_FAILURES`."""
    with Image.open(file) as image:
        return rgb_of(image)


def rgb_of(image: Image.Image) -> Pixels:
    """An open image -> (H, W, 3) uint8 RGB; greys of 16 bits keep their high byte, as colours of 16
    bits do. `ValueError` for values of no fixed range.
    """
    if is_deep_grey(image):
        values = np.asarray(image).astype("<u2", copy=False)
        high = np.ascontiguousarray(values).view(np.uint8)[:, 1::2]  # no copy of a large image
        return np.repeat(high[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise ValueError(f"values of mode {image.mode} have no fixed range")
    if image.mode == "P" and "transparency" in image.info:  # else Pillow warns
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def is_deep_grey(image: Image.Image) -> bool:
    """True for one channel from 0 to 65535. Pillow opens a deep PPM as 32 bits, scaled to that."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def encode_jpeg(images: Pixels) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG of quality 95, 4:4:4."""
    return simplejpeg.encode_jpeg(images, quality=JPEG_QUALITY, colorsubsampling="444")


class ImageCodec(NamedTuple):
    """How images of one suffix are read and, where `pack` writes it, written. `size_hw` reads the
    header alone."""

    size_hw: Callable[[Encoded], tuple[int, int]]
    decode: Callable[[Encoded], Pixels]
    encode: Callable[[Pixels], bytes] | None = None


IMAGE_CODECS: dict[str, ImageCodec] = {
    "qoi": ImageCodec(qoi_size_hw, partial(qoi.decode, channels=3), qoi.encode),
    "png": ImageCodec(png_size_hw, lambda data: read_rgb(io.BytesIO(data))),
    "jpg": ImageCodec(jpeg_size_hw, partial(simplejpeg.decode_jpeg, colorspace="RGB"), encode_jpeg),
}


def encode_label(labels: Pixels) -> bytes:
    """(H, W) uint8 ids -> a zstandard frame that carries its length and a checksum."""
    assert labels.ndim == 2 and labels.dtype == np.uint8, (labels.shape, labels.dtype)
    compressor = zstandard.ZstdCompressor(level=LABEL_LEVEL, write_checksum=True)
    return compressor.compress(np.ascontiguousarray(labels).tobytes())


def decode_label(data: Encoded, height_px: int, width_px: int, name: str) -> Pixels:
    """A zstandard frame -> (height_px, width_px) uint8 ids, read-only.

    The frame's own length must be the picture's before a byte is allocated, and its window no
    longer, so a lying header cannot eat the memory. `DataError` names the sample.
    """
    expected_bytes = height_px * width_px
    try:
        found_bytes = zstandard.frame_content_size(data)
        if found_bytes != expected_bytes:
            raise DataError(
                f"{name}: expected a label of {height_px}x{width_px} = {expected_bytes} pixels, "
                f"got {found_bytes}",
                fix=REPACK,
            )
        decompressor = zstandard.ZstdDecompressor(max_window_size=max(expected_bytes, 1 << 10))
        raw = decompressor.decompress(data, max_output_size=expected_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DataError(
            f"{name}: the label cannot be decoded as zstandard: {error}", fix=REPACK
        ) from error
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
