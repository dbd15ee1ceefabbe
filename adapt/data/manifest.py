"""What lies in a packed split: `SPLIT/manifest.json` (a page to read) and `SPLIT/index.npz` (where
each sample lies).

The manifest is written last, so its presence means that the split is complete, and it names the
sha256 of the index and of every shard, so its own sha256 identifies every byte of the data set.
Readers never parse a tar.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from adapt.errors import DataError
from adapt.section import Section
from storage.store import MissingObject, Store

FORMAT_VERSION = 2

Profile = Literal["exact", "small", "original"]
"""exact: resized, lossless; small: resized, JPEG 95; original: the owner's bytes at full size."""


class ShardInfo(Section):
    """One shard: its name in the split's folder, and its checksums in hex."""

    name: str
    size_bytes: int
    num_samples: int
    sha256: str
    xxh3: str


class Manifest(Section):
    """One packed split. `id_pixels` counts pixels for each of the dataset's own ids over the whole
    split.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    split: str
    profile: Profile
    size_hw: tuple[int, int] | None
    num_samples: int
    labelled: bool
    id_pixels: dict[int, int]
    shards: tuple[ShardInfo, ...]
    index_sha256: str
    libraries: dict[str, str]
    plan_sha256: str = ""

    @property
    def ids(self) -> tuple[int, ...]:
        """The dataset's own ids that occur in the split, ascending: columns of
        `Index.id_pixels`."""
        return tuple(sorted(self.id_pixels))

    @property
    def dataset_id(self) -> str:
        """sha256 of the canonical JSON: equal for equal bytes, on any machine and in any store."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def canonical_json(self) -> bytes:
        """UTF-8 JSON with sorted keys and no spaces."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Index:
    """One row a sample, in packed order. Offsets count from the shard's first byte; labels of
    length 0 are absent.

    `id_pixels` (N, M) uint32 counts each sample's pixels of each of `Manifest.ids`, so that
    statistics of the labels need no label to be decoded.
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


def write_manifest(store: Store, split: str, manifest: Manifest, index: Index) -> Manifest:
    """Write `index.npz`, then `manifest.json` with the index's sha256 filled in; returns that
    manifest.
    """
    data = index.to_bytes()
    complete = manifest.model_copy(update={"index_sha256": hashlib.sha256(data).hexdigest()})
    check_index(complete, index, f"{store.uri}/{split}/index.npz")
    store.put(f"{split}/index.npz", data)
    content = json.dumps(complete.model_dump(mode="json"), indent=1)
    store.put(f"{split}/manifest.json", content.encode())
    return complete


def read_manifest(store: Store, split: str) -> tuple[Manifest, Index]:
    """The manifest and index of a packed split, verified against each other. `DataError` names the
    object at fault.
    """
    manifest = parse_manifest(
        read_object(store, split, "manifest.json"), f"{store.uri}/{split}/manifest.json"
    )
    uri = f"{store.uri}/{split}/index.npz"
    data = read_object(store, split, "index.npz")
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.index_sha256:
        raise DataError(
            f"{uri}: damaged, or of another packing: sha256 {found[:12]}..., the manifest expects "
            f"{manifest.index_sha256[:12]}...; pack the split again with --overwrite"
        )
    index = parse_index(data, uri)
    check_index(manifest, index, uri)
    return manifest, index


def packed_splits(store: Store) -> list[str]:
    """Names of the complete splits under the store's root."""
    ending = "/manifest.json"
    return [entry.key.removesuffix(ending) for entry in store.list() if entry.key.endswith(ending)]


def read_object(store: Store, split: str, file_name: str) -> bytes:
    """One object of a split; where it is missing, a `DataError` that says what is there instead."""
    try:
        return store.get(f"{split}/{file_name}")
    except MissingObject as error:
        splits = [name for name in packed_splits(store) if name != split]
        there = (
            f"packed splits there: {', '.join(splits)}" if splits else "no packed split is there"
        )
        raise DataError(
            f"{store.uri}/{split}/{file_name} is missing: `pack` the split first, "
            "or let an interrupted `pack` finish "
            f"({there})"
        ) from error


def parse_manifest(data: bytes, uri: str) -> Manifest:
    """JSON -> Manifest. `DataError` for another format version, no samples, or no manifest at
    all.
    """
    try:
        content: Any = json.loads(data)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{uri}: expected format_version {FORMAT_VERSION}, found {version!r}; "
                "pack the data again (--overwrite)"
            )
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{uri}: {key}: {first['msg']}") from error
    except ValueError as error:
        raise DataError(f"{uri}: not a manifest: {error}") from error
    if manifest.num_samples < 1:
        raise DataError(
            f"{uri}: num_samples: expected at least 1, found {manifest.num_samples}: "
            "the split is empty; pack it again (--overwrite)"
        )
    return manifest


def parse_index(data: bytes, uri: str) -> Index:
    """npz -> Index. Pickled arrays are refused. `DataError` names the array that is missing or
    wrong.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Index(**{field.name: arrays[field.name] for field in fields(Index)})
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{uri}: not an index: {error}") from error


def check_index(manifest: Manifest, index: Index, uri: str) -> None:
    """Every row lies inside its shard and the counts agree with the manifest, else `DataError`."""
    lengths = {len(getattr(index, field.name)) for field in fields(Index)}
    if lengths != {manifest.num_samples}:
        raise DataError(
            f"{uri}: expected {manifest.num_samples} rows in each array, found {sorted(lengths)}"
        )
    counts = np.array([shard.num_samples for shard in manifest.shards], np.int64)
    if index.shard.size and not 0 <= index.shard.min() <= index.shard.max() < len(counts):
        raise DataError(f"{uri}: names a shard outside 0..{len(counts) - 1}")
    if not np.array_equal(np.bincount(index.shard, minlength=len(counts)), counts):
        raise DataError(f"{uri}: samples a shard differ from the manifest's")
    totals = [manifest.id_pixels[identity] for identity in manifest.ids]
    if index.id_pixels.sum(axis=0, dtype=np.uint64).tolist() != totals:
        raise DataError(f"{uri}: pixels of each id differ from the manifest's")
    check_extents(manifest, index, uri)


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
            f"{uri}: sample {index.keys[row]!s} does not fit its shard {shard.name} "
            f"of {shard.size_bytes} bytes: image at "
            f"{index.image_offset_bytes[row]} +{index.image_length_bytes[row]}, label at "
            f"{index.label_offset_bytes[row]} +{index.label_length_bytes[row]}"
        )


def outside(
    offsets_bytes: npt.NDArray[np.int64],
    lengths_bytes: npt.NDArray[np.int64],
    sizes_bytes: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Which extents leave their shards; without sums that a hostile value could overflow."""
    return (offsets_bytes < 0) | (lengths_bytes < 0) | (lengths_bytes > sizes_bytes - offsets_bytes)
