"""Opens a job: its stores, its shard cache, its three splits, its run folder.

All of it happens before a network is built, so a mistake costs seconds.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import NamedTuple

from adapt.batch import IGNORED
from adapt.checkpoint.run_folder import RunFolder
from adapt.data.packed.mixture import Mixture
from adapt.data.packed.packed_split import PackedSplit, SplitConfig
from adapt.data.text_files import decoded_text
from adapt.errors import DataError, Interrupted
from adapt.evaluation.protocol import WITHOUT_LABELS
from adapt.methods import check_size
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.config import StreamConfig
from adapt.stream.domains import Part
from storage.retry import outages_waited_for
from storage.shards.cache import ShardCache
from storage.stores import Stores
from storage.transient import TIME
from storage.uris import join

log = logging.getLogger(__name__)


class JobData(NamedTuple):
    """The splits of a job, opened; `target` and `validation` where the job has them."""

    source: PackedSplit | Mixture
    target: PackedSplit | Mixture | None
    validation: PackedSplit | None


class Opened(NamedTuple):
    """A job at its place, with all that it reads and writes open; `labels` names the pseudo-labels
    that take the place of a domain, where the method has such."""

    job: JobSpec
    place: Place
    stores: Stores
    cache: ShardCache
    data: JobData
    folder: RunFolder
    labels: str | None = None


@contextmanager
def open_job(job: JobSpec, place: Place) -> Iterator[Opened]:
    """Open a job's stores, cache, splits and run folder for as long as the context lasts.

    Raises `JobError`, `StoreError`, and `DataError` where data and spec disagree.
    """
    stores, cache = open_stores(job, place), open_cache(job, place)
    data = open_data(job, stores, cache)
    job = with_score(job, data.validation)
    try:
        yield Opened(job, place, stores, cache, data, open_run_folder(job, place, stores))
    finally:
        for split in data:
            if split is not None:
                split.close()


def splits_in_use(opened: Opened) -> dict[str, tuple[PackedSplit, SplitConfig]]:
    """The packed splits of a job and their sections, by key, as `source` and `validation`."""
    job, data = opened.job, opened.data
    used: dict[str, tuple[PackedSplit, SplitConfig]] = {}
    for domain, drawn in (("source", data.source), ("target", data.target)):
        splits = () if drawn is None else drawn.parts
        for part, split in zip(job.parts(domain), splits, strict=True):
            used[part.name.replace(" ", "_")] = (split, part.config)
    if data.validation is not None and job.validation is not None:
        used["validation"] = (data.validation, job.validation)
    return used


@contextmanager
def stores_awaited(stop: Event, beat: Callable[[], None]) -> Iterator[None]:
    """Inside, the job retries an unreachable store, from its first request on, as it does for
    shards later; `beat` is called before each wait.

    Raises `Interrupted` where `stop` is set meanwhile.
    """

    def wait(wait_s: float) -> bool:
        beat()
        return stop.wait(wait_s)

    try:
        with outages_waited_for(wait):
            yield
    except TIME as error:
        if not stop.is_set():
            raise
        raise Interrupted(f"stopped while waiting for a store: {error.problem}") from error


def open_stores(job: JobSpec, place: Place) -> Stores:
    """The object stores with the job's settings and the place's secrets.

    Raises `JobError` for a missing secret.
    """
    job.check_environment(place.environment)
    return Stores(job.stores, place.environment)


def open_cache(job: JobSpec, place: Place) -> ShardCache:
    """The node's shard cache."""
    limit = job.stream.cache_gb
    return ShardCache(
        place.shards_dir,
        capacity_bytes=None if limit is None else int(limit * 1e9),
        memory_bytes=int(job.stream.memory_gb * 1e9),
    )


def decoding_threads(config: StreamConfig, place: Place) -> int:
    """`stream.threads`, or this rank's share of the node's cores."""
    cores = len(os.sched_getaffinity(0))
    return config.threads or max(2, min(16, cores // place.local_ranks))


def open_data(job: JobSpec, stores: Stores, cache: ShardCache) -> JobData:
    """Open the job's splits.

    Raises `StoreError`, and `DataError` where data and spec disagree. The target's labels are
    never opened, whether there are any or not, but for those of the samples that the spec names.
    """
    source = _joined(job, job.parts("source"), stores, cache)
    target = _joined(job, job.parts("target"), stores, cache) if job.target else None
    validation = None
    if job.validation is not None:
        validation = open_validation(job, job.validation, stores, cache)
    _warn_of_absent_classes(job, source)
    return JobData(source, target, validation)


def _joined(
    job: JobSpec, parts: Sequence[Part], stores: Stores, cache: ShardCache
) -> PackedSplit | Mixture:
    """The datasets that a domain's batches draw from, as one."""
    splits = [open_part(job, part, stores, cache) for part in parts]
    return splits[0] if len(splits) == 1 else Mixture(splits, [part.weight for part in parts])


def open_part(job: JobSpec, part: Part, stores: Stores, cache: ShardCache) -> PackedSplit:
    """Open a dataset to train on; raises as `open_split`, and `JobError` where its images are too
    small for the method."""
    keys = part.keys if part.keys_uri is None else listed_keys(part.keys_uri, stores)
    split = open_split(job, part.config, stores, cache, part.labelled, keys)
    check_packed_size(job, part, split)
    return split


def listed_keys(uri: str, stores: Stores) -> tuple[str, ...]:
    """The keys in a text file, one a line, each once; empty lines and those after `#` do not count.

    Raises `StoreError`, and `DataError` where there are none.
    """
    folder, _, name = uri.rpartition("/")
    lines = decoded_text(stores.open(folder or ".").get(name)).splitlines()
    listed = (line.strip() for line in lines)
    keys = tuple(dict.fromkeys(key for key in listed if key and key[0] != "#"))
    if not keys:
        raise DataError(f"{uri}: expected keys of samples, one a line, got none", fix="list some")
    return keys


def open_split(
    job: JobSpec,
    section: SplitConfig,
    stores: Stores,
    cache: ShardCache,
    labelled: bool = True,
    keys: Sequence[str] | None = None,
) -> PackedSplit:
    """Open one split for images and train ids, or for images alone; of some samples, with `keys`.

    Labels that are train ids already have to be those of the job's classes.
    """
    id_table = job.classes.table(section.dataset) if labelled else None
    store = stores.open(section.uri)
    split = PackedSplit(store, section.split, cache, id_table, section.size_hw, keys)
    packed = split.manifest.dataset
    if packed != section.dataset:
        raise DataError(
            f"{section.uri}/{section.split}: expected dataset {section.dataset!r}, got shards "
            f"packed as {packed!r}",
            fix="correct dataset or uri in the spec",
        )
    if labelled:
        split.manifest.check_classes(job.classes.names, f"{section.uri}/{section.split}")
    return split


def open_validation(
    job: JobSpec, section: SplitConfig, stores: Stores, cache: ShardCache
) -> PackedSplit:
    """Open the validation split, with its labels where `evaluate.select_by` is a score of labels,
    or names none and there are labels, or they show some of the job's classes.

    Raises as `open_split`, and `DataError` where needed labels show none of them.
    """
    rules = job.evaluate
    if not rules.needs_labels:
        bare = open_split(job, section, stores, cache, labelled=False)
        wanted = rules.select_by is None and bare.manifest.labelled
        if not wanted and not _shows_classes(job, section, bare):
            return bare
        bare.close()
    try:
        split = open_split(job, section, stores, cache)
    except DataError as error:
        bare = open_split(job, section, stores, cache, labelled=False)
        bare.close()
        if bare.manifest.labelled:
            raise
        raise DataError(
            f"{bare.uri}: expected labels for evaluate.select_by: {rules.score}, got a split "
            "packed without",
            f"choose without labels, evaluate.select_by: {WITHOUT_LABELS}, or pack it again with "
            "its labels (--overwrite)",
        ) from error
    absent_classes(job, section, split)
    return split


def with_score(job: JobSpec, validation: PackedSplit | None) -> JobSpec:
    """The job with `evaluate.select_by`, which depends on whether the split, as opened, has labels
    where the spec leaves it out."""
    if validation is None:
        return job
    settled = job.evaluate.settled(labelled=validation.id_table is not None)
    return job.model_copy(update={"evaluate": settled})


def _shows_classes(job: JobSpec, section: SplitConfig, split: PackedSplit) -> bool:
    """Labels of a split, opened without them, have pixels of the job's classes."""
    if not split.manifest.labelled or section.dataset not in job.classes.datasets:
        return False
    table = job.classes.table(section.dataset)
    shown = (id_ for id_, pixels in split.manifest.id_pixels.items() if pixels)
    return any(table[id_] != IGNORED for id_ in shown)


def check_packed_size(job: JobSpec, part: Part, split: PackedSplit) -> None:
    """Raise `JobError` where a dataset's images come as they were packed, and are too small for the
    method."""
    if part.config.image_hw is None:
        heights, widths = split.index.height_px, split.index.width_px
        check_size(job.method, f"{part.key}.size_hw", (int(heights.min()), int(widths.min())))


def open_run_folder(job: JobSpec, place: Place, stores: Stores | None = None) -> RunFolder:
    """The folder of the job's checkpoints. Raises `JobError` for a missing secret."""
    stores = stores or open_stores(job, place)
    outside = place.checkpoints_at
    uri = None if outside is None else join(outside, job.name)
    return RunFolder(stores.open(join(job.checkpoint.uri, job.name)), uri)


def absent_classes(job: JobSpec, section: SplitConfig, split: PackedSplit) -> list[str]:
    """The job's classes of which a split opened with labels has no pixel.

    Raises `DataError` where it has none of any.
    """
    names, table = job.classes.names, split.id_table
    assert table is not None, "the split is opened with its labels"
    present = {int(table[id_]) for id_, pixels in split.manifest.id_pixels.items() if pixels}
    absent = [name for index, name in enumerate(names) if index not in present]
    if len(absent) == len(names):
        raise DataError(
            f"{section.uri}: expected pixels of the job's classes, got none of any",
            fix="correct `classes`",
        )
    return absent


def _warn_of_absent_classes(job: JobSpec, source: PackedSplit | Mixture) -> None:
    """Of those that no labelled dataset shows."""
    parts = zip(job.parts("source"), source.parts, strict=True)
    by_part = [absent_classes(job, part.config, split) for part, split in parts]
    absent = [name for name in by_part[0] if all(name in others for others in by_part)]
    if absent:
        listed = ", ".join(absent)
        log.warning("source: expected pixels of every class, got none of %s, not learned", listed)
