"""The last step where several jobs packed one split, a slice each: the records that they left in
the store -> index and manifest, the same bytes as one job would have written.

No raw file is needed. What is missing is named together with the slice to pack again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from adapt.data.packing.plan import PlanSummary, differences
from adapt.data.packing.records import (
    Record,
    complete,
    objects_of,
    parse_record,
    remove_leftovers,
    shard_name,
)
from adapt.errors import MAX_SHOWN, DataError
from storage.store import Store

Value = TypeVar("Value")
Records = dict[int, Record]
"""Number of a shard -> its record."""


class Wanted(NamedTuple):
    """What the shards of a split have in common. `num_slices`: by how many jobs it is packed."""

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
            f"{uri}: no packed slices are there: run `pack --slice I/N` for I from 0 to N - 1, "
            "with this URI and split, then merge"
        )
    wanted = wanted_of(records)
    numbers = range(wanted.plan.num_shards)
    refuse(uri, wanted, {number: fault_of(number, records, there, wanted) for number in numbers})
    kept = [records[number] for number in numbers]
    num_samples = sum(len(record.rows) for record in kept)
    if num_samples != wanted.plan.num_samples:
        raise DataError(
            f"{uri}: expected {wanted.plan.num_samples} samples in all shards, got "
            f"{num_samples}: the records are damaged; pack again with --overwrite"
        )
    return complete(store, wanted.plan, kept)


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
                f"{store.uri}/{split}/{shard_name(number)}.json: of another packing than the one "
                f"that is complete there ({differences(manifest, record.plan)}): "
                "pack all slices again with --overwrite"
            )
    remove_leftovers(store, split, len(manifest.shards))
    return manifest


def wanted_of(records: Records) -> Wanted:
    """The plan whose shards all have records, else the one of most, with what most of these say.

    Records of an older packing may lie beside: no two plans can have all theirs.
    """
    counts = Counter(record.plan for record in records.values())
    plan = max(counts, key=lambda one: (counts[one] == one.num_shards, counts[one]))
    own = [record for record in records.values() if record.plan == plan]
    libraries = Counter(tuple(sorted(record.libraries.items())) for record in own)
    num_slices = Counter(record.num_slices for record in own)
    pairs = most_common(libraries)
    return Wanted(plan, dict(pairs), most_common(num_slices))


def most_common(counts: Counter[Value]) -> Value:
    """The value that was counted most often."""
    return counts.most_common(1)[0][0]


def fault_of(number: int, records: Records, there: Mapping[str, int], wanted: Wanted) -> str | None:
    """Why a shard cannot be merged, None where it can."""
    record, file_name = records.get(number), f"{shard_name(number)}.tar"
    if record is None:
        return "not packed yet" if file_name not in there else "no record that can be read"
    if record.plan != wanted.plan:
        return f"of another packing ({differences(record.plan, wanted.plan)})"
    if record.libraries != wanted.libraries:
        return f"made by {versions(record.libraries)}, others by {versions(wanted.libraries)}"
    if record.shard.name != file_name or record.shard.num_samples != len(record.rows):
        return "its record is damaged"
    if there.get(file_name) != record.shard.size_bytes:
        return f"expected {record.shard.size_bytes} bytes, got {there.get(file_name, 'nothing')}"
    return None


def versions(libraries: Mapping[str, str]) -> str:
    """Library versions in words."""
    return ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))


def refuse(uri: str, wanted: Wanted, faults: Mapping[int, str | None]) -> None:
    """Nothing where no shard has a fault, else one `DataError` with the first ten and the slices to
    pack again.
    """
    lines = [f"{shard_name(number)}: {fault}" for number, fault in faults.items() if fault]
    if not lines:
        return
    more = f"\n  ... and {len(lines) - MAX_SHOWN} more" if len(lines) > MAX_SHOWN else ""
    again = commands(
        {number % wanted.num_slices for number, fault in faults.items() if fault}, wanted
    )
    shown = "\n  ".join(lines[:MAX_SHOWN])
    raise DataError(
        f"{uri}: {len(lines)} of {len(faults)} shards cannot be merged:\n  {shown}{more}\n"
        f"run {again}, with equal settings in the same container image, then merge"
    )


def commands(slices: Iterable[int], wanted: Wanted) -> str:
    """How to pack these slices again."""
    numbers = ", ".join(map(str, sorted(slices)))
    if wanted.num_slices == 1:
        return "`pack` again"
    return f"`pack --slice I/{wanted.num_slices}` again for I = {numbers}"
