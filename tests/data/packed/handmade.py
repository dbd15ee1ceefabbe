"""Packed splits written by hand, for what `pack` would never write: every stage can be edited, and
all checksums after it agree, so that the edit reaches the reader it is meant for.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from adapt.data.packed.codecs import encode_image, encode_label
from adapt.data.packed.index import Index
from adapt.data.packed.manifest import Manifest, ShardInfo
from storage.shards.shards import ShardWriter

Value = TypeVar("Value")
Arrays = dict[str, npt.NDArray[Any]]
Page = dict[str, Any]

SHARD = "shard-00000.tar"
SIZE_HW = (10, 14)
NUM_IDS = 3


class Piece(NamedTuple):
    """One sample as it is stored, and what the index shall say of it."""

    key: str
    suffix: str
    image: bytes
    label: bytes
    size_hw: tuple[int, int]
    id_pixels: tuple[int, ...]


def same(value: Value) -> Value:
    """The edit that changes nothing."""
    return value


def piece(key: str, suffix: str = "qoi", size_hw: tuple[int, int] = SIZE_HW) -> Piece:
    """A good sample: stripes with a little noise, seeded by its key."""
    rng = np.random.default_rng(list(key.encode()))
    labels = np.repeat(np.arange(size_hw[0]) % NUM_IDS, size_hw[1]).reshape(size_hw)
    images = (labels[..., None] * 70 + rng.integers(0, 9, (*size_hw, 3))).astype(np.uint8)
    data = png(images) if suffix == "png" else encode_image(images, suffix)
    counts = np.bincount(labels.ravel(), minlength=NUM_IDS)
    return Piece(key, suffix, data, encode_label(labels.astype(np.uint8)), size_hw, tuple(counts))


def png(images: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(images).save(buffer, "PNG")
    return buffer.getvalue()


def write_split(
    folder: Path,
    pieces: Sequence[Piece],
    *,
    shard: Callable[[bytes], bytes] = same,
    arrays: Callable[[Arrays], Arrays] = same,
    index: Callable[[bytes], bytes] = same,
    manifest: Callable[[Page], Page] = same,
    text: Callable[[bytes], bytes] = same,
) -> None:
    """Write split `train` of one shard under `folder`, each stage passed through its edit."""
    path = folder / "train" / SHARD
    extents = write_shard(path, pieces)
    data = shard(path.read_bytes())
    path.write_bytes(data)
    packed = npz(arrays(arrays_of(pieces, extents, data)))
    index_bytes = index(packed)
    (folder / "train/index.npz").write_bytes(index_bytes)
    page = manifest_of(pieces, data, index_bytes).model_dump(mode="json")
    (folder / "train/manifest.json").write_bytes(text(json.dumps(manifest(page)).encode()))


def write_shard(path: Path, pieces: Sequence[Piece]) -> list[tuple[int, int, int, int]]:
    """A tar of the pieces; returns offset and length of each image, then of its label."""
    extents = []
    with ShardWriter(path) as writer:
        for one in pieces:
            image = writer.add(f"{one.key}.img.{one.suffix}", one.image)
            label = writer.add(f"{one.key}.lbl.zst", one.label)
            extents.append((image, len(one.image), label, len(one.label)))
    return extents


def arrays_of(
    pieces: Sequence[Piece], extents: list[tuple[int, int, int, int]], data: bytes
) -> Arrays:
    """The index's arrays for the pieces in a shard of these bytes."""
    digests = [
        xxhash.xxh3_64_intdigest(data[image : image + size] + data[label : label + length])
        for image, size, label, length in extents
    ]
    image, image_length, label, label_length = np.array(extents, np.int64).T
    heights_px, widths_px = np.array([one.size_hw for one in pieces], np.int32).T
    return {
        "keys": np.array([one.key for one in pieces], np.str_),
        "suffix": np.array([one.suffix for one in pieces], np.str_),
        "shard": np.zeros(len(pieces), np.int32),
        "image_offset_bytes": image,
        "image_length_bytes": image_length,
        "label_offset_bytes": label,
        "label_length_bytes": label_length,
        "height_px": heights_px,
        "width_px": widths_px,
        "xxh3": np.array(digests, np.uint64),
        "id_pixels": np.array([one.id_pixels for one in pieces], np.uint32),
    }


def npz(arrays: Arrays) -> bytes:
    """The bytes of an index of any arrays, right or wrong."""
    assert set(arrays) <= {field.name for field in fields(Index)}, sorted(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def manifest_of(pieces: Sequence[Piece], data: bytes, index_bytes: bytes) -> Manifest:
    """The manifest of one shard of these bytes."""
    info = ShardInfo(
        name=SHARD,
        size_bytes=max(len(data), 1),
        num_samples=len(pieces),
        sha256=hashlib.sha256(data).hexdigest(),
        xxh3=xxhash.xxh3_64_hexdigest(data),
    )
    totals = np.array([one.id_pixels for one in pieces]).sum(axis=0).tolist()
    return Manifest(
        dataset="handmade",
        split="train",
        profile="original",
        size_hw=None,
        num_samples=len(pieces),
        labelled=True,
        id_pixels=dict(enumerate(totals)),
        shards=(info,),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
        libraries={},
    )
