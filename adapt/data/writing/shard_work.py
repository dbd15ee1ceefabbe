"""One packed shard: its samples are read, encoded and decoded again, written to a temporary file,
uploaded, and then recorded."""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from adapt.data.datasets import RawSample
from adapt.data.packed import codecs
from adapt.data.packed.encodings import PackedImage, refuse_changed
from adapt.data.packed.manifest import ShardInfo
from adapt.data.workers import SampleCounter
from adapt.data.writing.plan import PackingPlan, Slice
from adapt.data.writing.shard_records import SampleRecord, ShardRecord, shard_name
from storage.errors import StoreError
from storage.shards.shards import ShardWriter, checksums
from storage.store import Store

LIBRARIES = ("numpy", "Pillow", "qoi", "simplejpeg", "zstandard")


class ShardWork(NamedTuple):
    """The common state of the threads of one packing."""

    store: Store
    plan: PackingPlan
    libraries: dict[str, str]
    part: Slice

    @property
    def numbers(self) -> range:
        """The numbers of the shards that are this call's."""
        return self.part.shards(len(self.plan.shards))


def pack_shard(work: ShardWork, number: int, counter: SampleCounter) -> ShardRecord:
    """Build one shard in a temporary file, upload it, then put its record."""
    store, plan, libraries, part = work
    name = shard_name(number)
    with tempfile.TemporaryDirectory(prefix="segadapt-pack-") as folder:
        path = Path(folder, f"{name}.tar")
        rows = []
        with ShardWriter(path) as writer:
            for planned in plan.shards[number]:
                counter.check()
                rows.append(pack_sample(writer, plan, planned.sample))
                counter.add()
        shard = store_shard(store, plan.split, path, len(rows))
    record = ShardRecord(plan.summary, libraries, shard, rows, part.num_slices)
    store.put(f"{plan.split}/{name}.json", record.to_json())
    return record


def store_shard(store: Store, split: str, path: Path, num_samples: int) -> ShardInfo:
    """Upload a finished shard into its split, and make sure that it is there."""
    sha256, xxh3 = checksums(path)
    shard = ShardInfo(
        name=path.name,
        size_bytes=path.stat().st_size,
        num_samples=num_samples,
        sha256=sha256,
        xxh3=xxh3,
    )
    store.put_file(f"{split}/{path.name}", path)
    check_stored(store, f"{split}/{path.name}", shard.size_bytes)
    return shard


def check_stored(store: Store, key: str, size_bytes: int) -> None:
    """`StoreError` where the store does not have what was just put into it."""
    found = [entry.size_bytes for entry in store.list(key) if entry.key == key]
    if found != [size_bytes]:
        there = f"{found[0]} bytes" if found else "nothing"
        raise StoreError(
            f"{store.uri}/{key}: expected the {size_bytes} bytes that were written, got {there}: "
            "the store lost some, or another job packs to the same place",
            fix="end other jobs that pack to this URI, then pack again",
        )


def pack_sample(writer: ShardWriter, plan: PackingPlan, sample: RawSample) -> SampleRecord:
    """Read, resize, encode and append one sample. `DataError` names the file that is wrong."""
    image = plan.encoding.pack(sample.image_path, plan.size_hw)
    encoded, id_pixels = b"", dict[int, int]()
    if sample.label_path is not None:
        encoded, id_pixels = packed_label(plan, sample.label_path)
    return append_sample(writer, sample.key, image, encoded, id_pixels)


def append_sample(
    writer: ShardWriter,
    key: str,
    image: PackedImage,
    encoded_label: bytes,
    id_pixels: dict[int, int],
) -> SampleRecord:
    """Append an encoded image and, where there is one, its encoded label; the row of the index."""
    suffix, data, size_hw = image
    image_offset_bytes, label_offset_bytes = writer.add(f"{key}.img.{suffix}", data), 0
    if encoded_label:
        label_offset_bytes = writer.add(f"{key}.lbl.zst", encoded_label)
    xxh3 = xxhash.xxh3_64(data)
    xxh3.update(encoded_label)
    extents = (image_offset_bytes, len(data), label_offset_bytes, len(encoded_label))
    return SampleRecord(key, suffix, *extents, *size_hw, xxh3.intdigest(), id_pixels)


def packed_label(plan: PackingPlan, path: Path) -> tuple[bytes, dict[int, int]]:
    """A label file -> (stored bytes, pixels of each id that occurs)."""
    labels = plan.read_label(path)
    if plan.table is not None:
        labels = plan.table[labels]
    if plan.size_hw:
        labels = codecs.resize_label(labels, plan.size_hw)
    encoded = codecs.encode_label(labels)
    height_px, width_px = labels.shape
    refuse_changed(codecs.decode_label(encoded, height_px, width_px, str(path)), labels, path)
    return encoded, pixels_by_id(labels)


def pixels_by_id(labels: npt.NDArray[np.uint8]) -> dict[int, int]:
    """(H, W) -> pixels of each id that occurs."""
    counts = np.bincount(labels.ravel())
    return {int(identity): int(counts[identity]) for identity in np.flatnonzero(counts)}


def library_versions() -> dict[str, str]:
    """Versions of the libraries that make the packed bytes."""
    return {name: version(name) for name in LIBRARIES}
