"""Raw folders -> packed shards in any store: in parallel, resumable, the same bytes for the same
input.

The plan (which samples go into which shard) is fixed before the first byte is written, so each
shard is a job of its own: built in a local temporary file, every image and label decoded again,
uploaded, then a record `shard-00000.json` is put beside it. A run that was interrupted skips the
shards whose record fits the plan. Records become `index.npz`, the manifest comes last; where
several jobs pack a slice each, by `adapt/data/packing/merge.py`. Threads suffice, because Pillow,
qoi and zstandard release the GIL.
"""

import os
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from adapt.data.datasets import RawSample, refuse_unknown_ids
from adapt.data.label_maps import LabelSpace
from adapt.data.packed import codecs
from adapt.data.packed.manifest import Manifest, Profile, ShardInfo
from adapt.data.packed.split_files import read_manifest
from adapt.data.packing.plan import (
    SHARD_BYTES,
    WHOLE,
    Plan,
    Slice,
    check_arguments,
    differences,
    make_plan,
)
from adapt.data.packing.records import (
    Record,
    Row,
    complete,
    earlier_record,
    manifest_of,
    objects_of,
    remove_leftovers,
    shard_name,
)
from adapt.data.workers import Counter, stopping, watch
from adapt.errors import DataError, JobError
from storage.errors import StoreError
from storage.shards.shards import ShardWriter, checksums
from storage.store import Store

LIBRARIES = ("numpy", "Pillow", "qoi", "simplejpeg", "zstandard")


class Progress(NamedTuple):
    """How far a packing is. `reused`: samples of shards that an earlier run had packed already
    (counted in `done`).
    """

    done: int
    total: int
    reused: int


class Packing(NamedTuple):
    """What the threads of one call share."""

    store: Store
    plan: Plan
    libraries: dict[str, str]
    part: Slice

    @property
    def numbers(self) -> range:
        """The numbers of the shards that are this call's."""
        return self.part.shards(len(self.plan.shards))


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
    label_space: LabelSpace | None = None,
    part: Slice = WHOLE,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Pack one split of a raw folder into `store` under `split/`; returns its manifest.

    `name` is what label spaces call the dataset (default: the row's name); `size_hw` None keeps
    sizes; `shard_bytes` is what shards aim at; with a `label_space` the labels are stored as its
    train ids. With a `part`, only its shards are packed and their records are left for `merge`; the
    manifest that comes back is of them alone and is not written.

    Where the same packing is complete already, nothing is done but one report of progress with
    `reused == total`. `on_progress` is called in this thread, and may raise to stop; the next call
    goes on from there.

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
        label_space=label_space,
    )
    there = objects_of(store, split)
    if "manifest.json" in there and not overwrite:
        manifest = same_packing(store, plan)
        remove_leftovers(store, split, len(plan.shards))
        on_progress(Progress(plan.num_samples, plan.num_samples, plan.num_samples))
        return manifest
    if "manifest.json" in there:
        store.delete(f"{split}/manifest.json")
    packing = Packing(store, plan, library_versions(), part)
    records = pack_shards(packing, there, workers or os.cpu_count() or 1, on_progress)
    if part != WHOLE:
        return manifest_of(plan.summary, records)
    return complete(store, plan.summary, records)


def same_packing(store: Store, plan: Plan) -> Manifest:
    """The manifest that is there, if of this plan; else a `JobError` saying what differs."""
    manifest, _ = read_manifest(store, plan.split)
    if manifest.plan_sha256 == plan.summary.sha256:
        return manifest
    raise JobError(
        f"{store.uri}/{plan.split}: another packing is there already "
        f"({differences(manifest, plan.summary)}); "
        "choose another URI or split, or replace it with --overwrite"
    )


def pack_shards(
    packing: Packing,
    there: dict[str, int],
    workers: int,
    on_progress: Callable[[Progress], None],
) -> list[Record]:
    """The part's records in order, packing those that are not there yet on `workers` threads."""
    store, plan, libraries, _ = packing
    records = {
        number: record
        for number in packing.numbers
        if (record := earlier_record(store, plan.summary, number, there, libraries))
    }
    reused = sum(len(record.rows) for record in records.values())
    total = sum(len(plan.shards[number]) for number in packing.numbers)
    counter = Counter(reused)
    on_progress(Progress(reused, total, reused))
    with ThreadPoolExecutor(workers) as pool, stopping(counter):
        jobs = {
            number: pool.submit(pack_shard, packing, number, counter)
            for number in packing.numbers
            if number not in records
        }
        watch(
            list(jobs.values()),
            counter,
            lambda done: on_progress(Progress(done, total, reused)),
        )
        records |= {number: job.result() for number, job in jobs.items()}
    return [records[number] for number in packing.numbers]


def pack_shard(packing: Packing, number: int, counter: Counter) -> Record:
    """Build one shard in a temporary file, upload it, then put its record."""
    store, plan, libraries, part = packing
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
    check_stored(store, f"{plan.split}/{path.name}", shard.size_bytes)
    record = Record(plan.summary, libraries, shard, rows, part.num_slices)
    store.put(f"{plan.split}/{name}.json", record.to_json())
    return record


def check_stored(store: Store, key: str, size_bytes: int) -> None:
    """`StoreError` where the store does not hold what was just put into it."""
    found = [entry.size_bytes for entry in store.list(key) if entry.key == key]
    if found != [size_bytes]:
        there = f"{found[0]} bytes are" if found else "nothing is"
        raise StoreError(
            f"{store.uri}/{key}: {size_bytes} bytes were written, {there} there: the store lost "
            "some, or another job packs to the same place; pack again"
        )


def pack_sample(writer: ShardWriter, plan: Plan, sample: RawSample) -> Row:
    """Read, resize, encode and append one sample. `DataError` names the file that is wrong."""
    suffix, data, (height_px, width_px) = packed_image(plan, sample.image_path)
    image_offset_bytes = writer.add(f"{sample.key}.img.{suffix}", data)
    encoded, label_offset_bytes, id_pixels = b"", 0, dict[int, int]()
    if sample.label_path is not None:
        encoded, id_pixels = packed_label(plan, sample.label_path)
        label_offset_bytes = writer.add(f"{sample.key}.lbl.zst", encoded)
    xxh3 = xxhash.xxh3_64(data)
    xxh3.update(encoded)
    extents = (image_offset_bytes, len(data), label_offset_bytes, len(encoded))
    size_hw = (height_px, width_px)
    return Row(sample.key, suffix, *extents, *size_hw, xxh3.intdigest(), id_pixels)


def packed_label(plan: Plan, path: Path) -> tuple[bytes, dict[int, int]]:
    """A label file -> (bytes, pixels of each id that occurs) as the plan has it."""
    labels = plan.layout.read_label(path)
    refuse_unknown_ids(np.flatnonzero(np.bincount(labels.ravel())).tolist(), plan.layout, path)
    if plan.table is not None:
        labels = plan.table[labels]
    if plan.size_hw:
        labels = codecs.resize_label(labels, plan.size_hw)
    encoded = codecs.encode_label(labels)
    height_px, width_px = labels.shape
    refuse_changed(codecs.decode_label(encoded, height_px, width_px, str(path)), labels, path)
    counts = np.bincount(labels.ravel())
    return encoded, {int(identity): int(counts[identity]) for identity in np.flatnonzero(counts)}


def refuse_changed(found: codecs.Pixels, written: codecs.Pixels, path: Path) -> None:
    """`DataError` where what was encoded does not decode to itself."""
    if not np.array_equal(found, written):
        raise DataError(
            f"{path}: what was packed of it does not decode to the same pixels: this machine's "
            "memory or a library is faulty; pack again on another machine"
        )


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
    data = codecs.encode_image(images, suffix)
    if suffix == "qoi":
        refuse_changed(codecs.decode_image(data, suffix, str(path)), images, path)
    return suffix, data, images.shape[:2]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that make the packed bytes."""
    return {name: version(name) for name in LIBRARIES}
