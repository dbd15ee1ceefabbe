"""The packed splits that a job reads: there, readable, complete, and of the job's classes."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from adapt.check.subject import FAILURES, Subject, red
from adapt.data.packed.codecs import REPACK
from adapt.data.packed.packed_split import PackedSplit, SplitConfig
from adapt.data.packed.verify import Split, image_fault, label_fault, members_of, xxh3_of_parts
from adapt.errors import DataError
from adapt.platforms.platform import Finding
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import Part
from adapt.trainer.opening import (
    absent_classes,
    open_cache,
    open_part,
    open_validation,
    with_score,
)
from storage.retry import retried
from storage.shards.cache import ShardCache
from storage.stores import READ_ONLY
from storage.uris import split_uri

ATTEMPTS = 5


class Scored(NamedTuple):
    """The validation split, beside the datasets to train on."""

    config: SplitConfig
    name: str = "validation"
    key: str = "validation"


class SplitReport(NamedTuple):
    """The findings on one split; `shard_bytes` and `packed_hw` where its manifest could be read.

    `remote`: whether shards have to be fetched.
    """

    findings: tuple[Finding, ...]
    shard_bytes: tuple[int, ...] = ()
    packed_hw: tuple[int, int] | None = None
    remote: bool = False

    @property
    def readable(self) -> bool:
        """No finding is an error."""
        return all(one.ok for one in self.findings)


def parts_of(job: JobSpec) -> list[Part | Scored]:
    """The datasets of a job."""
    scored = [] if job.validation is None else [Scored(job.validation)]
    return [*job.parts("source"), *job.parts("target"), *scored]


def check_split(subject: Subject, name: str) -> SplitReport:
    """Open the dataset of this name in `parts_of`, and check its shards.

    Labels of the target stay unread, but for the samples that the job names.
    """
    part = next(one for one in parts_of(subject.job) if one.name == name)
    only_there = subject.only_there(f"{part.key}.uri", part.config.uri)
    if only_there is not None:
        return SplitReport((Finding(part.name, True, only_there),))
    cache = open_cache(subject.job, subject.place)
    try:
        split = _opened(subject, part, cache)
    except FAILURES as error:
        return SplitReport((red(part.name, error),))
    found = tuple(_of_split(subject, part, split))
    split.close()
    sizes = tuple(shard.size_bytes for shard in split.manifest.shards)
    if isinstance(part, Part) and part.of_some:
        sizes = ()  # they are the target's
    remote = split_uri(part.config.uri)[0] != "file"
    return SplitReport(found, sizes, _packed_hw(split), remote)


def _opened(subject: Subject, part: Part | Scored, cache: ShardCache) -> PackedSplit:
    """The split as the job opens it."""
    if isinstance(part, Part):
        return open_part(subject.job, part, subject.stores, cache)
    return open_validation(subject.job, part.config, subject.stores, cache)


def _of_split(subject: Subject, part: Part | Scored, split: PackedSplit) -> Iterator[Finding]:
    manifest, name = split.manifest, part.name
    samples = f"{manifest.num_samples} samples of {manifest.dataset}"
    scored = ""
    if isinstance(part, Scored) and split.id_table is None:
        chosen_by = with_score(subject.job, split).evaluate.score
        scored = f", without labels: checkpoints are chosen by {chosen_by}"
    yield Finding(name, True, f"{part.config.uri}/{part.config.split}: {samples}{scored}")
    if split.id_table is not None:
        yield _classes(subject, name, part.config, split)
    for what, check in ((f"{name} shards", _shards), (f"{name} sample", _sample)):
        try:
            yield Finding(what, True, check(split))
        except FAILURES as error:
            yield red(what, error)


def _classes(subject: Subject, name: str, section: SplitConfig, split: PackedSplit) -> Finding:
    try:
        absent = absent_classes(subject.job, section, split)
    except DataError as error:
        return red(f"{name} classes", error)
    of = f"of {subject.job.classes.num_classes} classes"
    found = f"no pixel {of} is of {', '.join(absent)}" if absent else f"pixels {of}"
    return Finding(f"{name} classes", True, found)


def _shards(split: PackedSplit) -> str:
    """All shards of the manifest are in the store, in their sizes."""
    expected = {f"{split.split}/{one.name}": one.size_bytes for one in split.manifest.shards}
    listed = _listed(split, expected)
    missing = [key for key in expected if key not in listed]
    if missing:
        raise DataError(
            f"{split.store.uri}: expected {len(expected)} shards, got all but {len(missing)}, the "
            f"first of which is {missing[0]}",
            fix=REPACK,
        )
    for key, size_bytes in expected.items():
        if listed[key] != size_bytes:
            raise DataError(
                f"{split.store.uri}/{key}: expected {size_bytes} bytes, got {listed[key]}",
                fix=REPACK,
            )
    return f"all {len(expected)} are there, {sum(expected.values()) / 1e6:.1f} MB"


def _listed(split: PackedSplit, expected: dict[str, int]) -> dict[str, int]:
    """Sizes by key. Where a store cannot list, the last bytes of the first and last shard stand
    for all of them."""
    store = split.store
    if split_uri(store.uri)[0] not in READ_ONLY:
        return {one.key: one.size_bytes for one in store.list(f"{split.split}/")}
    for key in {next(iter(expected)), next(reversed(expected))}:
        retried(partial(store.get_range, key, expected[key] - 1, 1), ATTEMPTS)
    return expected


def _sample(split: PackedSplit) -> str:
    """The first sample of the first shard decodes; its label too, where labels are read."""
    whole = Split(split.store, split.manifest, split.index)
    key = f"{split.split}/{split.manifest.shards[int(split.index.shard[0])].name}"
    labelled = split.id_table is not None
    parts = [
        retried(partial(split.store.get_range, key, one.offset_bytes, one.length_bytes), ATTEMPTS)
        for one in members_of(whole, 0)[: 2 if labelled else 1]
    ]
    name = split.name(0)
    if labelled and xxh3_of_parts(parts) != int(split.index.xxh3[0]):
        raise DataError(f"{name}: expected the packed bytes, got others (xxh3)", fix=REPACK)
    checks = zip((image_fault, label_fault), parts, strict=False)
    for fault in (check(whole, 0, data, name) for check, data in checks):
        if fault is not None:
            raise DataError(fault, fix=REPACK)
    return f"{split.key(0)} decodes"


def _packed_hw(split: PackedSplit) -> tuple[int, int]:
    """The size of the packed images; of originals the largest height and width."""
    if split.manifest.size_hw is not None:
        return split.manifest.size_hw
    return int(split.index.height_px.max()), int(split.index.width_px.max())
