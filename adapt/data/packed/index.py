"""`SPLIT/index.npz`: the place of each sample in a packed split, and the ids in its label.

The file may come from a stranger: sizes, names and types are bounded before anything is allocated
from what it states.
"""

import io
import math
import re
import reprlib
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt.data.packed.codecs import IMAGE_CODECS, MAX_PIXELS, MAX_SIDE_PX, REPACK
from adapt.data.packed.manifest import Manifest
from adapt.errors import DataError

MAX_DIRECTORY_BYTES = 1 << 16
"""A zip's table of contents; that of an index has 900 bytes."""


@dataclass(frozen=True)
class Index:
    """One row a sample, in packed order. Offsets count from the shard's first byte; labels of
    length 0 are absent.

    `xxh3` is the xxh3-64 of the image's bytes followed by the label's, as stored. `id_pixels`
    (N, M) uint32 counts each sample's pixels of each of `Manifest.ids`, so that statistics of the
    labels need no label to be decoded.
    """

    keys: npt.NDArray[np.str_]
    suffix: npt.NDArray[np.str_]
    shard: npt.NDArray[np.int32]
    image_offset_bytes: npt.NDArray[np.int64]
    image_length_bytes: npt.NDArray[np.int64]
    label_offset_bytes: npt.NDArray[np.int64]
    label_length_bytes: npt.NDArray[np.int64]
    height_px: npt.NDArray[np.int32]
    width_px: npt.NDArray[np.int32]
    xxh3: npt.NDArray[np.uint64]
    id_pixels: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.keys)

    def to_bytes(self) -> bytes:
        """The bytes of `index.npz`: uncompressed, without time stamps, equal for equal content."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            **{field.name: getattr(self, field.name) for field in fields(self)},
        )
        return buffer.getvalue()


ARRAYS: dict[str, tuple[str, int]] = {
    "keys": ("U", 1),
    "suffix": ("U", 1),
    "shard": ("<i4", 1),
    "image_offset_bytes": ("<i8", 1),
    "image_length_bytes": ("<i8", 1),
    "label_offset_bytes": ("<i8", 1),
    "label_length_bytes": ("<i8", 1),
    "height_px": ("<i4", 1),
    "width_px": ("<i4", 1),
    "xxh3": ("<u8", 1),
    "id_pixels": ("<u4", 2),
}
"""Type and number of axes of each array of the index; `U` is text of any length."""

INDEX_FAILURES = (
    KeyError,
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
"""Errors of zipfile and numpy on broken files."""


def parse_index(data: bytes, uri: str) -> Index:
    """npz -> Index, in memory of the order of `data`: compressed or pickled arrays are refused.
    `DataError` names the array that is missing or wrong."""
    try:
        refuse_large_directory(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return Index(**{name: parse_array(archive, name) for name in ARRAYS})
    except INDEX_FAILURES as error:
        raise DataError(
            f"{uri}: expected an index, got a damaged or other file: {error}", fix=REPACK
        ) from error


def refuse_large_directory(data: bytes) -> None:
    """`ValueError` where the zip's table of contents is large, or not where numpy writes it."""
    signature, *_, size_bytes, _, _ = struct.unpack("<4s4H2LH", data[-22:])
    if signature != b"PK\x05\x06" or data[-42:-38] == b"PK\x06\x07":
        raise ValueError("it does not end as an .npz of numpy does")
    if size_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError(f"its table of contents has {size_bytes} bytes")


ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<[iu][48]|<U\d{1,6})', 'fortran_order': (True|False), "
    rb"'shape': \((\d{1,18}),(?: (\d{1,18}))?\), \} *\n",
    re.DOTALL,
)
"""Numpy's header of an array of one or two axes. (Its own reader evaluates this text as Python, and
fails on bad ones in ways of Python's parser.)"""


def parse_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """One array as a read-only view of its bytes in the zip. `KeyError` where it is missing,
    `ValueError` for anything but a plain array of the right type that fills its bytes exactly.
    """
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, to {entry.file_size} bytes as it states")
    data = archive.read(entry)
    header = ARRAY_HEADER.match(data)
    if header is None or header.end() != 10 + int.from_bytes(data[8:10], "little"):
        raise ValueError(
            f"{name}: expected an array of numbers or text as numpy writes it, got other bytes"
        )
    descr, by_columns = header[1].decode(), header[2] == b"True"
    expected, axes = ARRAYS[name]
    if descr != expected and not (expected == "U" and descr.startswith("<U")):
        raise ValueError(f"{name}: expected type {expected}, got {descr}")
    dtype, shape = np.dtype(descr), tuple(int(part) for part in header.groups()[2:] if part)
    size_bytes = len(data) - header.end()
    if len(shape) != axes or math.prod(shape) * dtype.itemsize != size_bytes:
        raise ValueError(f"{name}: shape {shape} of {descr} in {size_bytes} bytes")
    if expected == "U" and np.frombuffer(data, "<u4", -1, header.end()).max(initial=0) > 0x10FFFF:
        raise ValueError(f"{name}: text with numbers that are no characters")
    return np.ndarray(shape, dtype, data, header.end(), order="F" if by_columns else "C")


def check_index(manifest: Manifest, index: Index, uri: str) -> None:
    """Every row lies inside its shard and the counts agree with the manifest, else `DataError`."""
    lengths = {len(getattr(index, field.name)) for field in fields(Index)}
    if lengths != {manifest.num_samples}:
        raise DataError(
            f"{uri}: expected {manifest.num_samples} rows in each array, got {sorted(lengths)}",
            fix=REPACK,
        )
    check_names(index, uri)
    counts = np.array([shard.num_samples for shard in manifest.shards], np.int64)
    if index.shard.size and not 0 <= index.shard.min() <= index.shard.max() < len(counts):
        raise DataError(
            f"{uri}: expected shards from 0 to {len(counts) - 1}, got {index.shard.min()} to "
            f"{index.shard.max()}",
            fix=REPACK,
        )
    if not np.array_equal(np.bincount(index.shard, minlength=len(counts)), counts):
        raise DataError(
            f"{uri}: expected the manifest's number of samples in each shard, got others",
            fix=REPACK,
        )
    if (np.diff(index.shard) < 0).any():
        raise DataError(f"{uri}: expected rows in the order of the shards, got others", fix=REPACK)
    totals = [manifest.id_pixels[identity] for identity in manifest.ids]
    if index.id_pixels.sum(axis=0, dtype=np.uint64).tolist() != totals:
        raise DataError(f"{uri}: expected the manifest's pixels of each id, got others", fix=REPACK)
    check_extents(manifest, index, uri)
    check_sizes(index, uri)


def check_names(index: Index, uri: str) -> None:
    """Keys are plain names, each once, and images of a kind that can be decoded, else
    `DataError`.
    """
    unknown = sorted(set(index.suffix.tolist()) - set(IMAGE_CODECS))
    if unknown:
        raise DataError(
            f"{uri}: suffix: expected {', '.join(IMAGE_CODECS)}, got {reprlib.repr(unknown[0])}",
            fix=REPACK,
        )
    (key, times), *_ = Counter(index.keys.tolist()).most_common(1) or [("", 1)]
    if times > 1:
        raise DataError(
            f"{uri}: expected a key for each sample, got {reprlib.repr(key)} {times} times",
            fix=REPACK,
        )
    for key in index.keys.tolist():
        if not key.isprintable() or "/" in key or "\\" in key or key in ("", ".", ".."):
            raise DataError(
                f"{uri}: expected keys that are plain names without '/' and '\\', "
                f"got {reprlib.repr(key)}",
                fix=REPACK,
            )


def check_sizes(index: Index, uri: str) -> None:
    """No image is larger than any camera's, so that no decoder is asked for such memory."""
    heights_px, widths_px = index.height_px.astype(np.int64), index.width_px.astype(np.int64)
    wrong = (heights_px > MAX_SIDE_PX) | (widths_px > MAX_SIDE_PX)
    wrong |= heights_px * widths_px > MAX_PIXELS
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{uri}: sample {index.keys[row]!s}: expected sides of at most {MAX_SIDE_PX} pixels "
            f"and {MAX_PIXELS} pixels in all, got {heights_px[row]}x{widths_px[row]}",
            fix=REPACK,
        )


def check_extents(manifest: Manifest, index: Index, uri: str) -> None:
    """Image and label bytes lie inside their shards; labels are there exactly where the manifest
    says so.
    """
    sizes_bytes = np.array([shard.size_bytes for shard in manifest.shards], np.int64)[index.shard]
    wrong = outside(index.image_offset_bytes, index.image_length_bytes, sizes_bytes)
    wrong |= outside(index.label_offset_bytes, index.label_length_bytes, sizes_bytes)
    wrong |= (index.image_length_bytes == 0) | (index.height_px <= 0) | (index.width_px <= 0)
    wrong |= (index.label_length_bytes > 0) != manifest.labelled
    if wrong.any():
        row = int(wrong.argmax())
        shard = manifest.shards[int(index.shard[row])]
        raise DataError(
            f"{uri}: sample {index.keys[row]!s}: expected to lie in its shard {shard.name} "
            f"of {shard.size_bytes} bytes, got image at "
            f"{index.image_offset_bytes[row]} +{index.image_length_bytes[row]}, label at "
            f"{index.label_offset_bytes[row]} +{index.label_length_bytes[row]}",
            fix=REPACK,
        )


def outside(
    offsets_bytes: npt.NDArray[np.int64],
    lengths_bytes: npt.NDArray[np.int64],
    sizes_bytes: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Which extents leave their shards; without sums that a hostile value could overflow."""
    return (offsets_bytes < 0) | (lengths_bytes < 0) | (lengths_bytes > sizes_bytes - offsets_bytes)
