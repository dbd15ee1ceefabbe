"""Opens what a job reads: its three splits, its starting weights, its run's folder.

Refuses what does not fit. Everything here happens before a network is built, so a mistake costs
seconds.
"""

import logging
import os
from collections.abc import Mapping
from threading import Event
from typing import Any, NamedTuple

from adapt.checkpoint.run_folder import RunFolder
from adapt.data.packed.packed_split import PackedSplit, SplitConfig
from adapt.engine.optim import schedule_length
from adapt.errors import DataError
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.config import DomainConfig, StreamConfig
from adapt.stream.stream import Stream, check_state
from storage.shards.cache import ShardCache
from storage.stores import Stores
from storage.uris import join

log = logging.getLogger(__name__)

SOURCE_STREAM, TARGET_STREAM = 0, 1
DOMAINS = ("source", "target")
"""The job spec's section of each stream."""


class JobData(NamedTuple):
    """The splits of a job, opened; `target` and `validation` where the job has them."""

    source: PackedSplit
    target: PackedSplit | None
    validation: PackedSplit | None


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
    never opened, whether there are any or not.
    """
    source = open_split(job, job.source, stores, cache)
    target = None
    if job.target is not None:
        target = open_split(job, job.target, stores, cache, labelled=False)
    validation = None
    if job.validation is not None:
        validation = open_split(job, job.validation, stores, cache)
    _warn_of_absent_classes(job, source)
    return JobData(source, target, validation)


def open_split(
    job: JobSpec, section: SplitConfig, stores: Stores, cache: ShardCache, labelled: bool = True
) -> PackedSplit:
    """Open one split for images and train ids, or for images alone.

    Labels that are train ids already have to be those of the job's classes.
    """
    id_table = job.classes.table(section.dataset) if labelled else None
    split = PackedSplit(stores.open(section.uri), section.split, cache, id_table, section.size_hw)
    packed = split.manifest.dataset
    if packed != section.dataset:
        raise DataError(
            f"{section.uri}/{section.split}: was packed as {packed!r}, the spec says dataset "
            f"{section.dataset!r}"
        )
    if labelled:
        split.manifest.check_classes(job.classes.names, f"{section.uri}/{section.split}")
    return split


def open_stream(
    job: JobSpec,
    domain: DomainConfig,
    split: PackedSplit,
    number: int,
    place: Place,
    state: Mapping[str, Any] | None,
    for_device: bool = False,
    stop: Event | None = None,
) -> Stream:
    """This rank's stream over an opened split, from its start or a checkpoint's `state` on.

    Raises `JobError` where the state is of other data or another order.
    """
    stream = Stream(
        split,
        seed=job.seed,
        stream=number,
        batch_size=domain.batch_size,
        augmentation=domain.augment,
        config=job.stream.model_copy(update={"threads": decoding_threads(job.stream, place)}),
        rank=place.rank,
        num_ranks=place.num_ranks,
        draw=0 if state is None else state["draw"],
        planned_draws=schedule_length(job.optim, job.train.steps) * domain.batch_size,
        for_device=for_device,
        stop=stop,
    )
    if state is not None:
        check_state(state, stream.state(0), DOMAINS[number])
    return stream


def open_run_folder(job: JobSpec, stores: Stores, outside: str | None = None) -> RunFolder:
    """The folder in which the job's checkpoints stand; others find that of all runs `outside`."""
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
        raise DataError(f"{section.uri}: no pixel belongs to any of the classes: check `classes`")
    return absent


def _warn_of_absent_classes(job: JobSpec, source: PackedSplit) -> None:
    absent = absent_classes(job, job.source, source)
    if absent:
        log.warning("source: no pixel of %s; those classes cannot be learned", ", ".join(absent))
