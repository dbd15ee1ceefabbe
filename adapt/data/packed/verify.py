"""Verifies packed splits byte by byte and names every fault: checksums of shards and of samples,
each member's place in its tar, images, sizes, counts of ids.

One shard at a time a thread, in a temporary file, one sample of it at a time in memory.
"""

import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from adapt.data.packed.codecs import REPACK, decode_image, decode_label
from adapt.data.packed.index import Index
from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import packed_splits, read_manifest, refuse_own_folder
from adapt.data.workers import SampleCounter, stopping, watch
from adapt.data.writing.plan import WHOLE, Slice
from adapt.errors import MAX_SHOWN, DataError, counted
from storage.errors import MissingObject
from storage.shards.shards import checksums, read_member
from storage.store import Store

TAR_FAILURES = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    EOFError,
    OSError,
    MemoryError,
    RecursionError,
)
"""Errors of tarfile on broken archives."""


@dataclass(frozen=True)
class Verification:
    """The objects read and their faults; each fault names its object and its sample."""

    uri: str
    splits: tuple[str, ...]
    num_shards: int
    num_samples: int
    size_bytes: int
    faults: tuple[str, ...]

    def refuse(self) -> None:
        """`DataError` with the first ten faults, where there are any."""
        if not self.faults:
            return
        more = len(self.faults) - MAX_SHOWN
        tail = f"\n  ... and {more} more (--json has all)" if more > 0 else ""
        shown = "\n  ".join(self.faults[:MAX_SHOWN])
        raise DataError(
            f"{self.uri}: {counted(len(self.faults), 'fault')} in {', '.join(self.splits)}:\n  "
            f"{shown}{tail}",
            fix=REPACK,
        )


@dataclass(frozen=True)
class Split:
    """A split whose manifest and index are in order."""

    store: Store
    manifest: Manifest
    index: Index

    def rows(self, shard: int) -> range:
        """The samples of a shard."""
        first, end = np.searchsorted(self.index.shard, (shard, shard + 1))
        return range(int(first), int(end))

    def uri(self, shard: int) -> str:
        """A shard's URI, for messages."""
        return f"{self.store.uri}/{self.manifest.split}/{self.manifest.shards[shard].name}"


class TarMember(NamedTuple):
    """A file in a tar, by its own header or by the index."""

    name: str
    offset_bytes: int
    length_bytes: int


def verify(
    store: Store,
    split: str | None = None,
    *,
    workers: int | None = None,
    part: Slice = WHOLE,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Verification:
    """Read a split again, or all packed ones, on `workers` threads; of all shards those of a
    `part`, in which manifests and indexes are read whole. `on_progress` gets the samples done and
    those in all.

    Raises `DataError` where nothing is packed, `StoreError` where the store fails.
    """
    names = [split] if split is not None else packed_splits(store)
    if not names:
        refuse_own_folder(store)
        raise DataError(f"{store.uri}: expected a packed split, got none", fix="pack one first")
    faults, opened = open_splits(store, names)
    every = [(one, number) for one in opened for number in range(len(one.manifest.shards))]
    shards = [every[place] for place in part.shards(len(every))]
    total, counter = sum(len(one.rows(number)) for one, number in shards), SampleCounter(0)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool, stopping(counter):
        jobs = [pool.submit(shard_faults, one, number, counter) for one, number in shards]
        watch(jobs, counter, lambda done: on_progress(done, total))
        faults += [fault for job in jobs for fault in job.result()]
    size_bytes = sum(one.manifest.shards[number].size_bytes for one, number in shards)
    return Verification(store.uri, tuple(names), len(shards), total, size_bytes, tuple(faults))


def open_splits(store: Store, names: Sequence[str]) -> tuple[list[str], list[Split]]:
    """Manifests and indexes that are wrong, as faults, and the splits whose are in order."""
    faults, opened = [], []
    for name in names:
        try:
            opened.append(Split(store, *read_manifest(store, name)))
        except DataError as error:
            faults.append(error.problem)
    return faults, opened


def shard_faults(split: Split, shard: int, counter: SampleCounter) -> list[str]:
    """All that is wrong with one shard and its samples."""
    counter.check()
    info, name, rows = split.manifest.shards[shard], split.uri(shard), split.rows(shard)
    with tempfile.TemporaryDirectory(prefix="segadapt-verify-") as folder:
        path = Path(folder, "shard.tar")
        try:
            split.store.get_file(f"{split.manifest.split}/{info.name}", path)
        except MissingObject:
            counter.add(len(rows))
            return [f"{name}: is missing"]
        faults = [f"{name}: {fault}" for fault in checksum_faults(split, shard, path)]
        faults += [f"{name}: {fault}" for fault in tar_faults(split, rows, path)]
        with path.open("rb") as file:
            for row in rows:
                counter.check()
                faults += sample_faults(split, row, file, name)
                counter.add()
    return faults


def checksum_faults(split: Split, shard: int, path: Path) -> list[str]:
    """Size and checksums of the whole file against the manifest."""
    info, size_bytes = split.manifest.shards[shard], path.stat().st_size
    sha256, xxh3 = checksums(path)
    pairs = {
        "size": (f"{info.size_bytes} bytes", f"{size_bytes} bytes"),
        "sha256": (info.sha256, sha256),
        "xxh3": (info.xxh3, xxh3),
    }
    return [
        f"{what}: expected {expected}, got {found}"
        for what, (expected, found) in pairs.items()
        if expected != found
    ]


def tar_faults(split: Split, rows: Sequence[int], path: Path) -> list[str]:
    """The members that a tar reader such as WebDataset's finds, against the index."""
    expected = [member for row in rows for member in members_of(split, row)]
    try:
        with tarfile.open(path, "r:") as archive:
            files = list(islice(archive, len(expected) + 1))
    except TAR_FAILURES as error:
        return [f"cannot be read as a tar: {error}"]
    found = {file.name: file for file in files if file.isreg() and not file.issparse()}
    faults = [fault for member in expected if (fault := misplaced(member, found.get(member.name)))]
    named = {member.name for member in expected}
    strangers = [file.name for file in files if file.name not in named]
    faults += [f"member {name!r} is not in the index" for name in strangers[:1]]
    if not faults and [file.name for file in files] != [member.name for member in expected]:
        faults.append("its members stand in another order than in the index, or twice")
    return faults


def members_of(split: Split, row: int) -> list[TarMember]:
    """A sample's image and label by the index."""
    index, key = split.index, str(split.index.keys[row])
    image = (int(index.image_offset_bytes[row]), int(index.image_length_bytes[row]))
    label = (int(index.label_offset_bytes[row]), int(index.label_length_bytes[row]))
    members = [TarMember(f"{key}.img.{index.suffix[row]}", *image)]
    return [*members, TarMember(f"{key}.lbl.zst", *label)] if split.manifest.labelled else members


def misplaced(member: TarMember, file: tarfile.TarInfo | None) -> str | None:
    """The fault of a member's place, None where there is none."""
    if file is None:
        return f"member {member.name!r} is not in the tar as a plain file"
    if (file.offset_data, file.size) != member[1:]:
        return (
            f"member {member.name!r}: expected at {member.offset_bytes} +{member.length_bytes} "
            f"bytes, got {file.offset_data} +{file.size}"
        )
    return None


def sample_faults(split: Split, row: int, file: BinaryIO, shard: str) -> list[str]:
    """The faults of one sample."""
    key, members = str(split.index.keys[row]), members_of(split, row)
    name = f"{shard}: {key}"
    if (
        max(one.offset_bytes + one.length_bytes for one in members)
        > os.fstat(file.fileno()).st_size
    ):
        return [f"{name}: lies beyond the shard's end"]
    parts = [read_member(file, one.offset_bytes, one.length_bytes) for one in members]
    faults = [f"{name}: a WebDataset reader ends its key at the first dot"] if "." in key else []
    expected, found = int(split.index.xxh3[row]), xxh3_of_parts(parts)
    if found != expected:
        faults.append(f"{name}: xxh3: expected {expected:016x}, got {found:016x}")
    for check, data in zip((image_fault, label_fault), parts, strict=False):
        fault = check(split, row, data, name)
        faults += [fault] if fault else []
    return faults


def xxh3_of_parts(parts: Sequence[bytes]) -> int:
    """xxh3-64 of parts, one after the other."""
    hasher = xxhash.xxh3_64()
    for part in parts:
        hasher.update(part)
    return hasher.intdigest()


def image_fault(split: Split, row: int, data: bytes, name: str) -> str | None:
    """The fault of an image's bytes or of its size."""
    size_hw = (int(split.index.height_px[row]), int(split.index.width_px[row]))
    try:
        decode_image(data, str(split.index.suffix[row]), name, size_hw)
    except DataError as error:
        return error.problem
    return None


def label_fault(split: Split, row: int, data: bytes, name: str) -> str | None:
    """The fault of a label's bytes, or of its counts in the index."""
    size_hw = (int(split.index.height_px[row]), int(split.index.width_px[row]))
    try:
        labels = decode_label(data, *size_hw, name)
    except DataError as error:
        return error.problem
    found, expected = id_counts(labels), np.zeros(256, np.int64)
    expected[list(split.manifest.ids)] = split.index.id_pixels[row]
    if np.array_equal(found, expected):
        return None
    identity = int((found != expected).argmax())
    return (
        f"{name}: label: expected {expected[identity]} pixels of id {identity}, "
        f"got {found[identity]}"
    )


def id_counts(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(256,) pixels of each id. NumPy counts in words of eight bytes, so a large label is counted
    piece by piece.
    """
    flat, piece = labels.reshape(-1), 1 << 16
    counts = np.zeros(256, np.int64)
    for start in range(0, flat.size, piece):
        counts += np.bincount(flat[start : start + piece], minlength=256)
    return counts
