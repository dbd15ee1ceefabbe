"""Images, labels and tars that lie about themselves; all checksums inside them agree."""

import io
import re
import struct
import tarfile
import zlib
from collections.abc import Sequence

import numpy as np
import zstandard
from PIL import Image

from adapt.data.packed.codecs import encode_image

PNG_START = b"\x89PNG\r\n\x1a\n"


def qoi(size_hw: tuple[int, int], body: bytes) -> bytes:
    """A QOI whose header says `size_hw`, before any body, with the right end."""
    height_px, width_px = size_hw
    return b"qoif" + struct.pack(">IIBB", width_px, height_px, 3, 0) + body + bytes(7) + b"\1"


def qoi_runs(size_hw: tuple[int, int]) -> bytes:
    """The shortest QOI of that size: black, in runs of 62 pixels."""
    runs, rest = divmod(size_hw[0] * size_hw[1], 62)
    return qoi(size_hw, bytes([0xC0 | 61]) * runs + (bytes([0xC0 | rest - 1]) if rest else b""))


def jpeg(size_hw: tuple[int, int]) -> bytes:
    """A JPEG whose frame says `size_hw` before the data of 16x16 pixels."""
    data = encode_image(np.full((16, 16, 3), 90, np.uint8), "jpg")
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", *size_hw) + data[frame + 4 :]


def endless_jpeg(size_hw: tuple[int, int], num_scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(size_hw, np.uint8)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = [match.start() for match in re.finditer(b"\xff\xda", data)][-1]
    return data[:-2] + data[last:-2] * num_scans + data[-2:]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(size_hw: tuple[int, int], bits: int = 8, colour: int = 2) -> bytes:
    """The chunk that says the size."""
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size_hw[::-1], bits, colour, 0, 0, 0))


def png(size_hw: tuple[int, int], pixel_bytes: int, before: Sequence[bytes] = ()) -> bytes:
    """A PNG whose header says `size_hw`, with so many zero bytes of pixels after other chunks."""
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(pixel_bytes), 9))
    end = png_chunk(b"IEND", b"")
    return PNG_START + png_header(size_hw) + b"".join(before) + pixels + end


def zstd(num_bytes: int, claimed_bytes: int) -> bytes:
    """A frame of zeros that claims another length, in a header with a field of four bytes."""
    data = zstandard.ZstdCompressor().compress(bytes(num_bytes))
    header = zstandard.frame_header_size(data)
    return data[:4] + struct.pack("<BI", 0b10100000, claimed_bytes) + data[header:]


def zstd_window(claimed_bytes: int, window_log: int) -> bytes:
    """The start of a frame that asks for a window of 2^window_log bytes, and never ends."""
    descriptor = (window_log - 10) << 3
    return b"\x28\xb5\x2f\xfd" + struct.pack("<BBI", 0b10000000, descriptor, claimed_bytes) + b"\0"


def edit_header(shard: bytes, offset: int, value: bytes) -> bytes:
    """Change a field of a tar's first header, and its sum."""
    header = bytearray(shard[:512])
    header[offset : offset + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + shard[512:]


def as_type(shard: bytes, kind: bytes, link: bytes = b"") -> bytes:
    """The first member as another type of member, linked to `link`."""
    return edit_header(edit_header(shard, 156, kind), 157, link)


def sized(shard: bytes, size_bytes: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The first member with a size of up to 2^63, as base 256."""
    return edit_header(as_type(shard, kind), 124, b"\x80" + size_bytes.to_bytes(11, "big"))
