"""Puts a job together and sees it through: stores, data, network, method, engine, tracker,
trainer."""

import logging
import resource
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import torch

from adapt.checkpoint import RunFolder
from adapt.data.feed import Feed
from adapt.data.packed import PackedSplit
from adapt.data.stream_config import DomainConfig
from adapt.engine import Engine, prepare_device
from adapt.errors import Interrupted
from adapt.job_data import (
    SOURCE_STREAM,
    TARGET_STREAM,
    JobData,
    build_network,
    check_networks,
    open_cache,
    open_data,
    open_run_folder,
    open_stores,
    open_stream,
    start_adversaries,
)
from adapt.methods import METHODS, build_method
from adapt.mlflow_database import embedded_tracking_uri
from adapt.mlflow_run import JOB_TAG
from adapt.places import Place
from adapt.progress import Progress
from adapt.ranks import barrier, open_ranks
from adapt.shared_stop import shared
from adapt.spec import JobSpec
from adapt.tracker import Status, Tracker
from adapt.trainer import Outcome, Trainer, resume
from storage.fetch import PATIENCE_S
from storage.store import MissingObject, split_uri

log = logging.getLogger(__name__)

TRACKER_FLUSH_S = 20.0
RANKS_WAIT = timedelta(seconds=3 * PATIENCE_S)
"""How long ranks wait for one another: longer than any of them for a store that is away."""


def run_job(
    job: JobSpec,
    place: Place,
    stop: Event,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    fresh: bool = False,
    beat: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train from the newest checkpoint, or from the start, to the end of the job.

    Raises `JobError`, `StoreError`, `DataError`, and `Interrupted` once `stop` is set and all is
    saved. `beat` is called whenever something was achieved; a watchdog may listen.
    """
    job.check_ranks(place.num_ranks)
    check_networks(job)
    allow_open_files()
    device = prepare_device(place.local_rank)
    if device.type == "cuda" and torch.cuda.device_count() > place.num_ranks == 1:
        gpus = torch.cuda.device_count()
        log.warning("1 of %d GPUs is used; for all: run --processes %d", gpus, gpus)
    with ExitStack() as stack:
        stack.enter_context(open_ranks(place, device, RANKS_WAIT))
        stack.enter_context(shared(stop))
        stores = open_stores(job, place)
        data = open_data(job, stores, open_cache(job, place))
        stack.callback(_close, data)
        folder = open_run_folder(job, stores, place.checkpoints_at)
        if fresh and place.leader:
            folder.clear()
        barrier()
        torch.manual_seed(job.seed)
        method = build_method(job.method, build_network(job, stores))
        method.observe_source(torch.from_numpy(data.source.label_pixels(job.classes.num_classes)))
        start_adversaries(job, stores, method)
        engine = Engine(method, job.train, job.optim, device, seed=job.seed)
        state = resume(folder, job, place.leader)
        if state is not None:
            engine.load_state_dict(state["engine"])
            log.info("resumed at step %d of %d", engine.step_count, job.train.steps)
        engine.share_all()
        beat()
        tracker = stack.enter_context(_tracking(job, place, folder, data, state))
        trainer = Trainer(
            job,
            place,
            engine,
            data,
            *_feeds(job, place, data, state, engine, stop, stack),
            folder,
            tracker,
            stop,
            on_progress,
            beat,
            **_evaluated(state),
        )
        stack.callback(data.source.cache.close)
        outcome = trainer.run()
        if place.leader and place.model_dir is not None:
            _deliver(folder, outcome, place.model_dir)
        return outcome


def allow_open_files() -> None:
    """Let this process open as many files as the system allows: under `stream.sampling: papers`
    and `rare_classes` hundreds of shards are open at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def tracking_uri(job: JobSpec, place: Place) -> str:
    """The spec's MLflow server, else the environment's, else a database file beside the
    checkpoints."""
    named = job.tracking.uri or place.tracking_uri
    if named:
        return named
    scheme, rest = split_uri(job.checkpoint.uri)
    return embedded_tracking_uri(Path(rest if scheme == "file" else "runs"))


def job_key(folder: RunFolder) -> str:
    """What identifies the job for MLflow, also after a restart: a mark in the run's folder, made
    where there is none."""
    key = known_job_key(folder)
    if key is None:
        key = uuid.uuid4().hex
        folder.store.put("JOB", key.encode())
    return key


def known_job_key(folder: RunFolder) -> str | None:
    """The mark in the run's folder, if there is one."""
    try:
        return folder.store.get("JOB").decode()
    except MissingObject:
        return None


def _deliver(folder: RunFolder, outcome: Outcome, out: Path) -> None:
    """Leave the best weights, or the last without an evaluation, where the platform keeps them."""
    name = folder.names()[-1] if outcome.best is None else outcome.best.name
    folder.deliver(name, out)
    log.info("the weights of %s are in %s, for the platform to keep", name, out)


def _evaluated(state: dict[str, Any] | None) -> dict[str, Any]:
    return {} if state is None else {key: state[key] for key in ("evaluated_step", "figures")}


def _feeds(
    job: JobSpec,
    place: Place,
    data: JobData,
    state: dict[str, Any] | None,
    engine: Engine,
    stop: Event,
    stack: ExitStack,
) -> tuple[Feed, Feed | None]:
    def feed(
        domain: DomainConfig, split: PackedSplit, number: int, state: dict[str, Any] | None
    ) -> Feed:
        on_device = engine.device.type == "cuda"
        stream = open_stream(job, domain, split, number, place, state, on_device, stop)
        stack.callback(stream.close)
        return Feed(stream, engine.method.segmenter.pixels, engine.device)

    states = state or {"source": None, "target": None}
    source = feed(job.source, data.source, SOURCE_STREAM, states["source"])
    if not METHODS[job.method.name].needs_target:
        return source, None
    assert job.target is not None and data.target is not None, "checked with the spec"
    return source, feed(job.target, data.target, TARGET_STREAM, states["target"])


@contextmanager
def _tracking(
    job: JobSpec, place: Place, folder: RunFolder, data: JobData, state: dict[str, Any] | None
) -> Iterator[Tracker | None]:
    """The leader's tracker, ended with the status of what happened inside."""
    if not place.leader:
        yield None
        return
    tracker = Tracker(
        job.tracking,
        uri=tracking_uri(job, place),
        run_name=job.name,
        job_key=job_key(folder),
        spool_dir=place.scratch_dir / "tracking",
        run_id=(state or {}).get("run_id") or None,
        resume_step=None if state is None else state["engine"]["step"],
        restored=(state or {}).get("undelivered", ()),
    )
    _describe(job, place, folder, data, tracker)
    status: Status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        error = sys.exception()
        why = None if error is None else f"{type(error).__name__}: {error}"
        tracker.finish(status, min(TRACKER_FLUSH_S, place.grace_s / 6), why)


def _describe(
    job: JobSpec, place: Place, folder: RunFolder, data: JobData, tracker: Tracker
) -> None:
    tracker.log_params(job.resolved())
    tracker.log_text(job.to_yaml(), "spec.yaml")
    tags = {
        "segadapt.checkpoints": folder.uri,
        "segadapt.source": data.source.manifest.dataset_id,
        "segadapt.platform": place.platform,
    }
    if place.job is not None:
        tags[JOB_TAG] = place.job
    if data.target is not None:
        tags["segadapt.target"] = data.target.manifest.dataset_id
    if data.validation is not None:
        tags["segadapt.validation"] = data.validation.manifest.dataset_id
    tracker.log_tags(tags)


def _close(data: JobData) -> None:
    for split in data:
        if split is not None:
            split.close()
