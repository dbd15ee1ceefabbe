"""Records of finished shards. An interrupted packing resumes from them, several jobs pack one split
through them, and index and manifest are made of them.

`shard-00000.json` is put after `shard-00000.tar`, so the shard of every record is whole.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.data.packed.index import Index
from adapt.data.packed.manifest import Manifest, ShardInfo
from adapt.data.packed.split_files import write_manifest
from adapt.data.writing.plan import PlanSummary
from storage.store import Store


class SampleRecord(NamedTuple):
    """One sample in its shard: a row of the index, as the shard's record keeps it."""

    key: str
    suffix: str
    image_offset_bytes: int
    image_length_bytes: int
    label_offset_bytes: int
    label_length_bytes: int
    height_px: int
    width_px: int
    xxh3: int
    id_pixels: dict[int, int]


class ShardRecord(NamedTuple):
    """A shard's JSON record. `num_slices`: the number of jobs that were to pack the split when this
    shard was packed.
    """

    plan: PlanSummary
    libraries: dict[str, str]
    shard: ShardInfo
    rows: list[SampleRecord]
    num_slices: int = 1

    def to_json(self) -> bytes:
        """The record's bytes in the store."""
        content = self._asdict() | {
            "plan": self.plan.model_dump(mode="json"),
            "shard": self.shard.model_dump(mode="json"),
        }
        return json.dumps(content).encode()


def earlier_record(
    store: Store,
    plan: PlanSummary,
    number: int,
    there: dict[str, int],
    libraries: dict[str, str],
) -> ShardRecord | None:
    """A shard's record from an earlier run, if it is of this plan and libraries and its shard is
    there whole. `there`: the split's objects and their sizes in bytes.
    """
    file_name = f"{shard_name(number)}.json"
    if file_name not in there:
        return None
    record = parse_record(store.get(f"{plan.split}/{file_name}"))
    if record is None or (record.plan, record.libraries) != (plan, libraries):
        return None
    return record if there.get(record.shard.name) == record.shard.size_bytes else None


def parse_record(data: bytes) -> ShardRecord | None:
    """JSON -> ShardRecord, None for anything else (the shard is packed again then)."""
    try:
        content: dict[str, Any] = json.loads(data)
        rows = [
            SampleRecord._make((*values[:9], numbered(values[9]))) for values in content["rows"]
        ]
        shard = ShardInfo.model_validate(content["shard"])
        plan = PlanSummary.model_validate(content["plan"])
        num_slices = max(1, int(content["num_slices"]))
        return ShardRecord(plan, dict(content["libraries"]), shard, rows, num_slices)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def numbered(id_pixels: dict[str, int]) -> dict[int, int]:
    """JSON's text keys -> ids."""
    return {int(identity): pixels for identity, pixels in id_pixels.items()}


def shard_name(number: int) -> str:
    """The name of a shard without its ending."""
    return f"shard-{number:05d}"


def objects_of(store: Store, split: str) -> dict[str, int]:
    """The objects of a split: file name -> size in bytes."""
    start = f"{split}/"
    return {entry.key.removeprefix(start): entry.size_bytes for entry in store.list(start)}


def complete(store: Store, plan: PlanSummary, records: Sequence[ShardRecord]) -> Manifest:
    """All shards are there: write index and manifest, then remove the records."""
    manifest = manifest_of(plan, records)
    manifest = write_manifest(store, plan.split, manifest, index_of(records, manifest.ids))
    remove_leftovers(store, plan.split, plan.num_shards)
    return manifest


def remove_leftovers(store: Store, split: str, num_shards: int) -> None:
    """Records have served, and shards beyond the plan's are of an older packing: delete them."""
    keep = {f"{split}/{shard_name(number)}.tar" for number in range(num_shards)}
    for entry in list(store.list(f"{split}/shard-")):
        if entry.key not in keep:
            store.delete(entry.key)


def manifest_of(plan: PlanSummary, records: Sequence[ShardRecord]) -> Manifest:
    """The manifest of the shards that have these records; `write_manifest` fills in the index's
    checksum.
    """
    totals = Counter[int]()
    for record in records:
        for row in record.rows:
            totals.update(row.id_pixels)
    return Manifest(
        dataset=plan.dataset,
        split=plan.split,
        encoding_name=plan.encoding_name,
        size_hw=plan.size_hw,
        num_samples=sum(len(record.rows) for record in records),
        labelled=plan.labelled,
        label_space=plan.label_space,
        id_pixels=dict(sorted(totals.items())),
        shards=tuple(record.shard for record in records),
        index_sha256="",
        libraries=dict(records[0].libraries) if records else {},
        plan_sha256=plan.sha256,
    )


def index_of(records: Sequence[ShardRecord], ids: tuple[int, ...]) -> Index:
    """The rows of all shards in order -> Index; `ids` are the manifest's."""
    rows = [row for record in records for row in record.rows]
    shard_of = [number for number, record in enumerate(records) for _ in record.rows]
    id_pixels = [[row.id_pixels.get(identity, 0) for identity in ids] for row in rows]
    return Index(
        keys=np.array([row.key for row in rows], np.str_),
        suffix=np.array([row.suffix for row in rows], np.str_),
        shard=np.array(shard_of, np.int32),
        image_offset_bytes=np.array([row.image_offset_bytes for row in rows], np.int64),
        image_length_bytes=np.array([row.image_length_bytes for row in rows], np.int64),
        label_offset_bytes=np.array([row.label_offset_bytes for row in rows], np.int64),
        label_length_bytes=np.array([row.label_length_bytes for row in rows], np.int64),
        height_px=np.array([row.height_px for row in rows], np.int32),
        width_px=np.array([row.width_px for row in rows], np.int32),
        xxh3=np.array([row.xxh3 for row in rows], np.uint64),
        id_pixels=np.array(id_pixels, np.uint32),
    )
