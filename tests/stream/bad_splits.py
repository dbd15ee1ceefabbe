"""Faults in packed splits, as a faulty writer would leave them: every checksum agrees."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from adapt.data.packed.index import Index
from adapt.data.packed.manifest import Manifest, ShardInfo
from adapt.data.packed.split_files import read_manifest
from storage.store import Store


def rewrite(store: Store, **arrays: Any) -> None:
    """Replace arrays of the index of split `train`, and write the manifest to match."""
    manifest, index = read_manifest(store, "train")
    write_unchecked(store, manifest, dataclasses.replace(index, **arrays).to_bytes())


def write_unchecked(store: Store, manifest: Manifest, index_bytes: bytes) -> None:
    """Write an index and a manifest that names it, whatever they hold."""
    digest = hashlib.sha256(index_bytes).hexdigest()
    content = manifest.model_copy(update={"index_sha256": digest}).canonical_json()
    store.put("train/index.npz", index_bytes)
    store.put("train/manifest.json", content)


def overwrite(store: Store, keys: list[str], part: str) -> None:
    """Fill the `image` or the `label` of samples of split `train` with junk."""
    tamper(store, keys, part, lambda data: b"\xff" * len(data))


def tamper(store: Store, keys: Sequence[str], part: str, change: Callable[[bytes], bytes]) -> None:
    """Replace the `image` or the `label` of samples of split `train` by other bytes, as many."""
    manifest, index = read_manifest(store, "train")
    shards = {shard.name: bytearray(store.get(f"train/{shard.name}")) for shard in manifest.shards}
    xxh3 = index.xxh3.copy()
    for row in (index.keys.tolist().index(key) for key in keys):
        start = int(getattr(index, f"{part}_offset_bytes")[row])
        length = int(getattr(index, f"{part}_length_bytes")[row])
        data = shards[manifest.shards[int(index.shard[row])].name]
        data[start : start + length] = change(bytes(data[start : start + length]))
        xxh3[row] = sample_xxh3(bytes(data), index, row)
    for name, data in shards.items():
        store.put(f"train/{name}", bytes(data))
    infos = tuple(resealed(shard, bytes(shards[shard.name])) for shard in manifest.shards)
    index = dataclasses.replace(index, xxh3=xxh3)
    write_unchecked(store, manifest.model_copy(update={"shards": infos}), index.to_bytes())


def sample_xxh3(shard: bytes, index: Index, row: int) -> int:
    """The checksum of a sample's image and label as they stand in its shard."""
    parts = b""
    for part in ("image", "label"):
        start = int(getattr(index, f"{part}_offset_bytes")[row])
        parts += shard[start : start + int(getattr(index, f"{part}_length_bytes")[row])]
    return xxhash.xxh3_64(parts).intdigest()


def resealed(shard: ShardInfo, data: bytes) -> ShardInfo:
    """The shard's line in the manifest with the checksums of these bytes."""
    sha256, xxh3 = hashlib.sha256(data).hexdigest(), xxhash.xxh3_64(data).hexdigest()
    return shard.model_copy(update={"sha256": sha256, "xxh3": xxh3})
