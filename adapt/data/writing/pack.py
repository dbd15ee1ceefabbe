"""Raw folders -> packed shards in any store: in parallel, resumable, the same bytes for the same
input.

The plan (which samples go into which shard) is fixed before the first byte is written, so each
shard is a job of its own: built in a local temporary file, every image and label decoded again,
uploaded, then a record `shard-00000.json` is put beside it. A run that was interrupted skips the
shards whose record fits the plan. Records become `index.npz`, the manifest comes last; where
several jobs pack a slice each, by `adapt/data/writing/merge.py`. Threads suffice, because Pillow,
qoi and zstandard release the GIL.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Unpack

from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from adapt.data.packed.versions import keep_replaced
from adapt.data.problems import Notes
from adapt.data.workers import SampleCounter, stopping, watch
from adapt.data.writing.draft import Draft, PlanSettings, draft_plan
from adapt.data.writing.plan import (
    WHOLE,
    PackingPlan,
    Slice,
    differences,
)
from adapt.data.writing.shard_records import (
    ShardRecord,
    complete,
    earlier_record,
    manifest_of,
    objects_of,
    remove_leftovers,
)
from adapt.data.writing.shard_work import ShardWork, library_versions, pack_shard
from adapt.data.writing.survey import Surveyed
from adapt.errors import JobError
from storage.store import Store
from storage.uris import split_uri


class PackingProgress(NamedTuple):
    """Samples that are packed. `reused`: those of shards that an earlier run had packed
    (counted in `done`).
    """

    done: int
    total: int
    reused: int


def pack(
    dataset: str,
    raw_dir: Path,
    store: Store,
    split: str,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    part: Slice = WHOLE,
    on_notes: Callable[[Notes], None] = lambda _: None,
    on_check: Callable[[int, int], None] = lambda _done, _total: None,
    on_progress: Callable[[PackingProgress], None] = lambda _: None,
    **settings: Unpack[PlanSettings],
) -> Manifest:
    """Pack one split of a raw folder into `store` under `split/`; returns its manifest.

    `settings` decide the bytes, see `PlanSettings`. With a `part`, only its shards are packed and
    their records are left for `merge`; the returned manifest is of them alone and is not written.

    Every file to pack is decoded before the first shard is written, so that all faults are known
    then; `on_check` gets the samples done and those in all. `on_notes` gets what is left out or
    converted, also where files are refused.

    Where the same packing is complete already, nothing is done but one report of progress with
    `reused == total`. `on_progress` is called in this thread, and may raise to stop; the next call
    resumes from there.

    Raises `JobError` for wrong settings, for a store in the raw folder or around it, and where
    another packing is there (`overwrite` replaces it), `BadFiles` that names every bad file,
    `StoreError` where the store fails.
    """
    refuse_overlap(raw_dir, store)
    draft = draft_plan(dataset, raw_dir, split, **settings)
    plan, threads = draft.plan, workers or os.cpu_count() or 1
    on_notes(draft.notes)
    if draft.problems:
        draft.refuse_faults(draft.surveyed, threads, on_check)
    there = objects_of(store, split)
    if "manifest.json" in there and not overwrite:
        manifest = same_packing(store, plan)
        remove_leftovers(store, split, len(plan.shards))
        on_progress(PackingProgress(plan.num_samples, plan.num_samples, plan.num_samples))
        return manifest
    work = ShardWork(store, plan, library_versions(), part)
    records = earlier_records(work, there)
    draft.refuse_faults(to_pack(draft, work, records), threads, on_check)
    if "manifest.json" in there:
        keep_replaced(store, split)
        store.delete(f"{split}/manifest.json")
    packed = pack_shards(work, records, threads, on_progress)
    if part != WHOLE:
        return manifest_of(plan.summary, packed)
    return complete(store, plan.summary, packed)


def refuse_overlap(raw_dir: Path, store: Store) -> None:
    """`JobError` where one of the two folders is in the other: the next packing would take the
    shards' folders for raw ones.
    """
    scheme, root = split_uri(store.uri)
    if scheme != "file":
        return
    raw, packed = Path(os.path.realpath(raw_dir)), Path(os.path.realpath(root))
    if raw == packed or raw in packed.parents or packed in raw.parents:
        raise JobError(
            f"URI: expected a folder apart from the raw folder {raw}, got {packed}",
            fix="pack into a folder beside the raw folder",
        )


def to_pack(draft: Draft, work: ShardWork, records: dict[int, ShardRecord]) -> list[Surveyed]:
    """The samples of this call's shards that no earlier run has packed."""
    numbers = [number for number in work.numbers if number not in records]
    keys = {one.sample.key for number in numbers for one in work.plan.shards[number]}
    return [one for one in draft.surveyed if one.sample.key in keys]


def same_packing(store: Store, plan: PackingPlan) -> Manifest:
    """The manifest that is there, if of this plan; else a `JobError` naming the differences."""
    manifest, _ = read_manifest(store, plan.split)
    if manifest.plan_sha256 == plan.summary.sha256:
        return manifest
    raise JobError(
        f"{store.uri}/{plan.split}: expected no packing or a part of this one, got another "
        f"({differences(manifest, plan.summary)})",
        fix="choose another URI or split, or replace it with --overwrite",
    )


def earlier_records(work: ShardWork, there: dict[str, int]) -> dict[int, ShardRecord]:
    """The records of the part's shards that are there already, by number."""
    store, plan, libraries, _ = work
    return {
        number: record
        for number in work.numbers
        if (record := earlier_record(store, plan.summary, number, there, libraries))
    }


def pack_shards(
    work: ShardWork,
    records: dict[int, ShardRecord],
    workers: int,
    on_progress: Callable[[PackingProgress], None],
) -> list[ShardRecord]:
    """The part's records in order, packing on `workers` threads those that are not there yet."""
    plan = work.plan
    reused = sum(len(record.rows) for record in records.values())
    total = sum(len(plan.shards[number]) for number in work.numbers)
    counter = SampleCounter(reused)
    on_progress(PackingProgress(reused, total, reused))
    with ThreadPoolExecutor(workers) as pool, stopping(counter):
        jobs = {
            number: pool.submit(pack_shard, work, number, counter)
            for number in work.numbers
            if number not in records
        }
        watch(
            list(jobs.values()),
            counter,
            lambda done: on_progress(PackingProgress(done, total, reused)),
        )
        records = records | {number: job.result() for number, job in jobs.items()}
    return [records[number] for number in work.numbers]
