"""Raw folders -> packed shards in any store: in parallel, resumable, the same bytes for the same
input.

The plan (which samples go into which shard) is fixed before the first byte is written, so each
shard is a job of its own: built in a local temporary file, uploaded, then a record
`shard-00000.json` is put beside it. A run that was interrupted skips the shards whose record fits
the plan. Records become `index.npz`, the manifest comes last. Threads suffice, because Pillow, qoi
and zstandard let go of Python's lock.
"""

import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adapt.data import codecs
from adapt.data.datasets import RawSample, refuse_unknown_ids
from adapt.data.manifest import Manifest, Profile, ShardInfo, read_manifest, write_manifest
from adapt.data.packing_plan import SHARD_BYTES, Plan, check_arguments, make_plan
from adapt.data.shard_records import Record, Row, earlier_record, index_of, manifest_of, shard_name
from adapt.errors import DataError, JobError
from storage.shards import ShardWriter, checksums
from storage.store import Store

LIBRARIES = ("numpy", "Pillow", "qoi", "simplejpeg", "zstandard")
POLL_S = 0.2


class Progress(NamedTuple):
    """How far a packing is. `reused`: samples of shards that an earlier run had packed already
    (counted in `done`).
    """

    done: int
    total: int
    reused: int


class Stopped(Exception):
    """Another shard failed, so this one is given up; never leaves this module."""


def pack(
    dataset: str,
    raw_dir: Path,
    store: Store,
    split: str,
    *,
    profile: Profile = "exact",
    size_hw: tuple[int, int] | None = None,
    name: str | None = None,
    unlabelled: bool = False,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int | None = None,
    skip: Collection[str] = (),
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Pack one split of a raw folder into `store` under `split/`; returns its manifest.

    `name` is what label spaces call the dataset (default: the row's name); `size_hw` None keeps
    sizes; `shard_bytes` is what shards aim at. Where the same packing is complete already, nothing
    is done but one report of progress with `reused == total`. `on_progress` is called in this
    thread, and may raise to stop; the next call goes on from there.

    Raises `JobError` for wrong arguments and where another packing is there (`overwrite` replaces
    it), `DataError` for bad files, by name, `StoreError` where the store fails.
    """
    check_arguments(split, profile, size_hw, shard_bytes)
    plan = make_plan(
        dataset,
        raw_dir,
        split,
        profile=profile,
        size_hw=size_hw,
        name=name,
        unlabelled=unlabelled,
        seed=seed,
        shard_bytes=shard_bytes,
        skip=skip,
    )
    there = {
        entry.key.removeprefix(f"{split}/"): entry.size_bytes for entry in store.list(f"{split}/")
    }
    if "manifest.json" in there and not overwrite:
        manifest = same_packing(store, plan)
        remove_leftovers(store, plan)
        on_progress(Progress(plan.num_samples, plan.num_samples, plan.num_samples))
        return manifest
    for file_name in ("manifest.json", "index.npz"):
        if file_name in there:
            store.delete(f"{split}/{file_name}")
    records = pack_shards(store, plan, there, workers or os.cpu_count() or 1, on_progress)
    manifest = manifest_of(plan, records)
    manifest = write_manifest(store, split, manifest, index_of(records, manifest.ids))
    remove_leftovers(store, plan)
    return manifest


def same_packing(store: Store, plan: Plan) -> Manifest:
    """The manifest that is there, if of this plan; else a `JobError` saying what differs."""
    manifest, _ = read_manifest(store, plan.split)
    if manifest.plan_sha256 == plan.fingerprint():
        return manifest
    differences = [
        f"{key} is {getattr(manifest, key)!r} there, {getattr(plan, key)!r} asked"
        for key in ("dataset", "profile", "size_hw", "labelled", "num_samples")
        if getattr(manifest, key) != getattr(plan, key)
    ]
    raise JobError(
        f"{store.uri}/{plan.split}: another packing is there already "
        f"({'; '.join(differences) or 'of other raw files, seed or shard size'}); "
        "choose another URI or split, or replace it with --overwrite"
    )


def pack_shards(
    store: Store,
    plan: Plan,
    there: dict[str, int],
    workers: int,
    on_progress: Callable[[Progress], None],
) -> list[Record]:
    """All shards' records in order, packing those that are not there yet on `workers` threads."""
    plan_sha256, libraries = plan.fingerprint(), library_versions()
    numbers = range(len(plan.shards))
    records = {
        number: record
        for number in numbers
        if (record := earlier_record(store, plan, number, there, plan_sha256, libraries))
    }
    reused = sum(len(record.rows) for record in records.values())
    counter = Counter(reused)
    on_progress(Progress(reused, plan.num_samples, reused))
    with ThreadPoolExecutor(workers) as pool, stopping(counter):
        jobs = {
            number: pool.submit(pack_shard, store, plan, number, plan_sha256, libraries, counter)
            for number in numbers
            if number not in records
        }
        watch(
            list(jobs.values()),
            counter,
            lambda done: on_progress(Progress(done, plan.num_samples, reused)),
        )
        records |= {number: job.result() for number, job in jobs.items()}
    return [records[number] for number in numbers]


class Counter:
    """How many samples the threads have packed, and whether they are to stop."""

    def __init__(self, done: int) -> None:
        self.done = done
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def check(self) -> None:
        """Raises `Stopped` where another shard has failed, or the caller has."""
        if self.stop.is_set():
            raise Stopped

    def add(self) -> None:
        """One sample more."""
        with self.lock:
            self.done += 1


@contextmanager
def stopping(counter: Counter) -> Iterator[None]:
    """Tells the threads to stop when the block fails, so that their pool does not pack the rest."""
    try:
        yield
    except BaseException:
        counter.stop.set()
        raise


def watch(jobs: list[Future[Record]], counter: Counter, report: Callable[[int], None]) -> None:
    """Report progress until all jobs have ended; raises the first failure at once."""
    waiting = set(jobs)
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for job in ended:
            job.result()
        report(counter.done)


def pack_shard(
    store: Store,
    plan: Plan,
    number: int,
    plan_sha256: str,
    libraries: dict[str, str],
    counter: Counter,
) -> Record:
    """Build one shard in a temporary file, upload it, then put its record."""
    name = shard_name(number)
    with tempfile.TemporaryDirectory(prefix="segadapt-pack-") as folder:
        path = Path(folder, f"{name}.tar")
        rows = []
        with ShardWriter(path) as writer:
            for planned in plan.shards[number]:
                counter.check()
                rows.append(pack_sample(writer, plan, planned.sample))
                counter.add()
        sha256, xxh3 = checksums(path)
        shard = ShardInfo(
            name=path.name,
            size_bytes=path.stat().st_size,
            num_samples=len(rows),
            sha256=sha256,
            xxh3=xxh3,
        )
        store.put_file(f"{plan.split}/{path.name}", path)
    record = Record(plan_sha256, libraries, shard, rows)
    store.put(f"{plan.split}/{name}.json", record.to_json())
    return record


def pack_sample(writer: ShardWriter, plan: Plan, sample: RawSample) -> Row:
    """Read, resize, encode and append one sample. `DataError` names the file that is wrong."""
    suffix, data, (height_px, width_px) = packed_image(plan, sample.image_path)
    image_offset_bytes = writer.add(f"{sample.key}.img.{suffix}", data)
    if sample.label_path is None:
        return Row(sample.key, suffix, image_offset_bytes, len(data), 0, 0, height_px, width_px, {})
    labels = plan.layout.read_label(sample.label_path)
    refuse_unknown_ids(
        np.flatnonzero(np.bincount(labels.ravel())).tolist(), plan.layout, sample.label_path
    )
    if plan.size_hw:
        labels = codecs.resize_label(labels, plan.size_hw)
    encoded = codecs.encode_label(labels)
    label_offset_bytes = writer.add(f"{sample.key}.lbl.zst", encoded)
    counts = np.bincount(labels.ravel())
    id_pixels = {int(identity): int(counts[identity]) for identity in np.flatnonzero(counts)}
    extents = (image_offset_bytes, len(data), label_offset_bytes, len(encoded))
    return Row(sample.key, suffix, *extents, height_px, width_px, id_pixels)


def packed_image(plan: Plan, path: Path) -> tuple[str, bytes, tuple[int, int]]:
    """An image file -> (suffix, bytes, (height_px, width_px)) as the plan's profile has it.

    Profile `original` decodes too, with the codec that training will use: a corrupt file is found
    here, not there.
    """
    if plan.profile == "original":
        suffix = "png" if path.suffix.lower() == ".png" else "jpg"
        data = path.read_bytes()
        images = codecs.decode_image(data, suffix, str(path))
        return suffix, data, images.shape[:2]
    try:
        images = codecs.read_rgb(str(path))
    except codecs.PILLOW_FAILURES as error:
        raise DataError(f"{path}: corrupt image: {error}") from error
    if plan.size_hw:
        images = codecs.resize_image(images, plan.size_hw)
    suffix = "qoi" if plan.profile == "exact" else "jpg"
    return suffix, codecs.encode_image(images, suffix), images.shape[:2]


def remove_leftovers(store: Store, plan: Plan) -> None:
    """Records have served, and shards beyond the plan's are of an older packing: delete them."""
    keep = {f"{plan.split}/{shard_name(number)}.tar" for number in range(len(plan.shards))}
    for entry in list(store.list(f"{plan.split}/shard-")):
        if entry.key not in keep:
            store.delete(entry.key)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that make the packed bytes."""
    return {name: version(name) for name in LIBRARIES}
