"""The last step where several jobs packed one split, a slice each: the records that they left in
the store -> index and manifest, the same bytes as one job would have written.

No raw file is needed. Missing shards are named together with the slices to pack again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.plan import PlanSummary, differences
from adapt.data.writing.shard_records import (
    ShardRecord,
    complete,
    objects_of,
    parse_record,
    remove_leftovers,
    shard_name,
)
from adapt.errors import MAX_SHOWN, DataError
from storage.errors import MissingObject
from storage.store import Store

Value = TypeVar("Value")
Records = dict[int, ShardRecord]
"""Number of a shard -> its record."""


class MergeTarget(NamedTuple):
    """The facts that all shards of a split share. `num_slices`: the number of jobs that pack it."""

    plan: PlanSummary
    libraries: dict[str, str]
    num_slices: int


def merge(store: Store, split: str) -> Manifest:
    """Write index and manifest of a split from its shards' records, then remove the records.

    A split that is complete already stays as it is. Raises `DataError` that names the shards that
    are missing, of another plan or made by other libraries, and `StoreError` where the store fails.
    """
    uri, there = f"{store.uri}/{split}", objects_of(store, split)
    records = read_records(store, split, there)
    if "manifest.json" in there:
        return merged_already(store, split, records)
    if not records:
        raise DataError(
            f"{uri}: expected packed slices, got none",
            fix="run `pack --slice I/N` for I from 0 to N - 1, with this URI and split, then merge",
        )
    target = target_of(records)
    numbers = range(target.plan.num_shards)
    refuse(uri, target, {number: fault_of(number, records, there, target) for number in numbers})
    kept = [records[number] for number in numbers]
    num_samples = sum(len(record.rows) for record in kept)
    if num_samples != target.plan.num_samples:
        raise DataError(
            f"{uri}: expected {target.plan.num_samples} samples in all shards, got {num_samples}, "
            "so the records are damaged",
            fix="pack again with --overwrite",
        )
    return complete(store, target.plan, kept)


def merge_if_all(store: Store, split: str) -> Manifest | None:
    """Merge where each shard of a plan is packed; None where slices are missing still.

    Several jobs may do so at the same time: they write the same bytes, and one that finds the
    records gone takes the manifest that is there then. Raises as `merge`.
    """
    try:
        there = objects_of(store, split)
        records = read_records(store, split, there)
        if "manifest.json" not in there and not _all_there(records):
            return None
        return merge(store, split)
    except (MissingObject, DataError):
        if "manifest.json" not in objects_of(store, split):
            raise
        return read_manifest(store, split)[0]


def _all_there(records: Records) -> bool:
    """Records of another packing may lie beside."""
    if not records:
        return False
    plan = target_of(records).plan
    return sum(record.plan == plan for record in records.values()) >= plan.num_shards


def read_records(store: Store, split: str, there: Mapping[str, int]) -> Records:
    """The records of a split; what cannot be read as one is left out."""
    found = {}
    for file_name in there:
        match = re.fullmatch(r"shard-(\d{5,9})\.json", file_name, re.ASCII)
        record = parse_record(store.get(f"{split}/{file_name}")) if match else None
        if match and record is not None:
            found[int(match[1])] = record
    return found


def merged_already(store: Store, split: str, records: Records) -> Manifest:
    """The manifest that is there; removes records that an interrupted merge has left."""
    manifest, _ = read_manifest(store, split)
    for number, record in records.items():
        if record.plan.sha256 != manifest.plan_sha256:
            raise DataError(
                f"{store.uri}/{split}/{shard_name(number)}.json: expected the packing that is "
                f"complete there, got another ({differences(manifest, record.plan)})",
                fix="pack all slices again with --overwrite",
            )
    remove_leftovers(store, split, len(manifest.shards))
    return manifest


def target_of(records: Records) -> MergeTarget:
    """The plan whose shards all have records, else the most frequent one, with the libraries and
    slices of most of its records.

    Records of an older packing may lie beside: no two plans can have all theirs.
    """
    counts = Counter(record.plan for record in records.values())
    plan = max(counts, key=lambda one: (counts[one] == one.num_shards, counts[one]))
    own = [record for record in records.values() if record.plan == plan]
    libraries = Counter(tuple(sorted(record.libraries.items())) for record in own)
    num_slices = Counter(record.num_slices for record in own)
    pairs = most_common(libraries)
    return MergeTarget(plan, dict(pairs), most_common(num_slices))


def most_common(counts: Counter[Value]) -> Value:
    """The value that was counted most often."""
    return counts.most_common(1)[0][0]


def fault_of(
    number: int, records: Records, there: Mapping[str, int], target: MergeTarget
) -> str | None:
    """Why a shard cannot be merged, None where it can."""
    record, file_name = records.get(number), f"{shard_name(number)}.tar"
    if record is None:
        return "not packed yet" if file_name not in there else "no record that can be read"
    if record.plan != target.plan:
        return f"of another packing ({differences(record.plan, target.plan)})"
    if record.libraries != target.libraries:
        return f"made by {versions(record.libraries)}, others by {versions(target.libraries)}"
    if record.shard.name != file_name or record.shard.num_samples != len(record.rows):
        return "its record is damaged"
    if there.get(file_name) != record.shard.size_bytes:
        return f"expected {record.shard.size_bytes} bytes, got {there.get(file_name, 'nothing')}"
    return None


def versions(libraries: Mapping[str, str]) -> str:
    """Library versions, for messages."""
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def refuse(uri: str, target: MergeTarget, faults: Mapping[int, str | None]) -> None:
    """Nothing where no shard has a fault, else one `DataError` with the first ten and the slices to
    pack again.
    """
    lines = [f"{shard_name(number)}: {fault}" for number, fault in faults.items() if fault]
    if not lines:
        return
    more = f"\n  ... and {len(lines) - MAX_SHOWN} more" if len(lines) > MAX_SHOWN else ""
    again = commands(
        {number % target.num_slices for number, fault in faults.items() if fault}, target
    )
    shown = "\n  ".join(lines[:MAX_SHOWN])
    raise DataError(
        f"{uri}: {len(lines)} of {len(faults)} shards cannot be merged:\n  {shown}{more}",
        fix=f"run {again}, with equal settings in the same container image, then merge",
    )


def commands(slices: Iterable[int], target: MergeTarget) -> str:
    """How to pack these slices again."""
    numbers = ", ".join(map(str, sorted(slices)))
    if target.num_slices == 1:
        return "`pack` again"
    return f"`pack --slice I/{target.num_slices}` again for I = {numbers}"
