"""Records of finished shards: how an interrupted packing goes on, and what the index is made of.

`shard-00000.json` is put after `shard-00000.tar`, so a record that is there speaks of a whole
shard.
"""

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from adapt.data.manifest import Index, Manifest, ShardInfo
from adapt.data.packing_plan import Plan
from storage.store import Store


class Row(NamedTuple):
    """One sample in its shard: a row of the index, as the shard's record keeps it."""

    key: str
    suffix: str
    image_offset_bytes: int
    image_length_bytes: int
    label_offset_bytes: int
    label_length_bytes: int
    height_px: int
    width_px: int
    id_pixels: dict[int, int]


class Record(NamedTuple):
    """What a shard's JSON record holds."""

    plan_sha256: str
    libraries: dict[str, str]
    shard: ShardInfo
    rows: list[Row]

    def to_json(self) -> bytes:
        """The record's bytes in the store."""
        content = self._asdict() | {"shard": self.shard.model_dump(mode="json")}
        return json.dumps(content).encode()


def earlier_record(
    store: Store,
    plan: Plan,
    number: int,
    there: dict[str, int],
    plan_sha256: str,
    libraries: dict[str, str],
) -> Record | None:
    """A shard's record from an earlier run, if it is of this plan and libraries and its shard is
    there whole.
    """
    file_name = f"{shard_name(number)}.json"
    if file_name not in there:
        return None
    record = parse_record(store.get(f"{plan.split}/{file_name}"))
    if record is None or (record.plan_sha256, record.libraries) != (plan_sha256, libraries):
        return None
    return record if there.get(record.shard.name) == record.shard.size_bytes else None


def parse_record(data: bytes) -> Record | None:
    """JSON -> Record, None for anything else (then the shard is packed again)."""
    try:
        content: dict[str, Any] = json.loads(data)
        rows = [Row._make((*values[:8], numbered(values[8]))) for values in content["rows"]]
        shard = ShardInfo.model_validate(content["shard"])
        return Record(content["plan_sha256"], content["libraries"], shard, rows)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def numbered(id_pixels: dict[str, int]) -> dict[int, int]:
    """JSON's text keys -> ids."""
    return {int(identity): pixels for identity, pixels in id_pixels.items()}


def shard_name(number: int) -> str:
    """The name of a shard without its ending."""
    return f"shard-{number:05d}"


def manifest_of(plan: Plan, records: list[Record]) -> Manifest:
    """The manifest of a plan whose shards are all there; `write_manifest` fills in the index's
    checksum.
    """
    totals = Counter[int]()
    for record in records:
        for row in record.rows:
            totals.update(row.id_pixels)
    return Manifest(
        dataset=plan.dataset,
        split=plan.split,
        profile=plan.profile,
        size_hw=plan.size_hw,
        num_samples=plan.num_samples,
        labelled=plan.labelled,
        id_pixels=dict(sorted(totals.items())),
        shards=tuple(record.shard for record in records),
        index_sha256="",
        libraries=records[0].libraries,
        plan_sha256=plan.fingerprint(),
    )


def index_of(records: list[Record], ids: tuple[int, ...]) -> Index:
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
        id_pixels=np.array(id_pixels, np.uint32),
    )
