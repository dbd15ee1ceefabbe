"""Sizes in image headers, checked before memory or time is spent on the pixels.

Headers are where a stranger's image lies: QOI (qoiformat.org) of few bytes and 400 million pixels,
JPEG (ITU-T T.81) of a thousand scans over the same pixels. PNG is opened by Pillow, which bounds
texts and profiles by itself and takes memory only as rows come. All raise `ValueError` or what the
codecs raise.
"""

import io
import re
import struct

import simplejpeg
from PIL.PngImagePlugin import PngImageFile

Encoded = bytes | bytearray | memoryview

QOI_HEADER = struct.Struct(">4sIIBB")
QOI_END_BYTES = 8
QOI_PIXELS_PER_BYTE = 62
"""The longest run of equal pixels that one byte of QOI stands for."""

JPEG_PIXELS_PER_BYTE = 8 * 64
"""A Huffman code takes a bit at least, and every block of 64 pixels has one."""
MAX_JPEG_SCANS = 500
"""Encoders write about ten; each costs a pass over the picture however short it is. The limit is
libjpeg-turbo's in its own tools."""
JPEG_SEGMENT = struct.Struct(">HH")
START_OF_SCAN = 0xFFDA
STARTS_OF_FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}
PROGRESSIVE = frozenset({0xFFC2, 0xFFC6, 0xFFCA, 0xFFCE})


def qoi_size_hw(data: Encoded) -> tuple[int, int]:
    """(height, width) in pixels by the 14-byte header, if the bytes can hold them."""
    magic, width_px, height_px, _, _ = QOI_HEADER.unpack_from(data)
    if magic != b"qoif":
        raise ValueError(f"expected it to start with b'qoif', got {magic!r}")
    pixels_bytes = len(data) - QOI_HEADER.size - QOI_END_BYTES
    refuse_more_than(QOI_PIXELS_PER_BYTE * pixels_bytes, height_px, width_px, len(data))
    return height_px, width_px


def jpeg_size_hw(data: Encoded) -> tuple[int, int]:
    """(height, width) in pixels by the frame's header, if the bytes can hold them in a sane number
    of scans.
    """
    height_px, width_px, *_ = simplejpeg.decode_jpeg_header(data)
    refuse_more_than(JPEG_PIXELS_PER_BYTE * len(data), int(height_px), int(width_px), len(data))
    num_scans = 1 if has_one_scan(data) else len(re.findall(rb"\xff\xda", data))
    if num_scans > MAX_JPEG_SCANS:
        raise ValueError(f"expected at most {MAX_JPEG_SCANS} scans, got {num_scans}")
    return int(height_px), int(width_px)


def has_one_scan(data: Encoded) -> bool:
    """Return whether a decoder stops after the first scan: it is not progressive and shows all
    colours.

    Anything between the segments that decoders would skip is refused: they and this must not
    disagree on where a segment starts.
    """
    position, sequential_components = 2, None
    while True:
        marker, length_bytes = JPEG_SEGMENT.unpack_from(data, position)
        if marker == 0xFFFF:  # a byte of filling before the marker
            position += 1
            continue
        if marker == START_OF_SCAN:
            return data[position + 4] == sequential_components
        if marker < 0xFFC0 or 0xFFD0 <= marker <= 0xFFD9:
            raise ValueError(f"expected a segment at byte {position}, got 0x{marker:04x}")
        if marker in STARTS_OF_FRAMES - PROGRESSIVE:
            sequential_components = data[position + 9]
        position += 2 + length_bytes


def png_size_hw(data: Encoded) -> tuple[int, int]:
    """(height, width) in pixels, as Pillow will decode it."""
    with PngImageFile(io.BytesIO(data)) as image:
        return image.height, image.width


def refuse_more_than(most_px: int, height_px: int, width_px: int, length_bytes: int) -> None:
    """`ValueError` where a header promises more pixels than so many bytes can hold."""
    if height_px * width_px > most_px:
        raise ValueError(f"its {length_bytes} bytes cannot hold {height_px}x{width_px} pixels")
