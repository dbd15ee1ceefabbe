"""Pictures to send, good and hostile."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from adapt.data.packed.codecs import Pixels

RGB: Pixels = np.array(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)).resize(
        (100, 60), Image.Resampling.BICUBIC
    )
)
"""Smooth spots of many colours, (60, 100, 3)."""


def encoded(pixels: Pixels = RGB, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    """A picture of an answer."""
    return Image.open(io.BytesIO(content))


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that states a size, of 8-bit RGB, with compressed data of any other."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pixel_bomb(width: int, height: int) -> bytes:
    """A small file that decodes to a black picture of this size, or to the first 64 MB of it."""
    packer = zlib.compressobj(1)
    block = b"\0" * (1 << 20)
    blocks = min(1 + height * (1 + 3 * width) // len(block), 64)
    data = b"".join(packer.compress(block) for _ in range(blocks)) + packer.flush()
    return png(width, height, data)


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there many times more."""
    data = encoded(kind="JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * scans + data[-2:]
