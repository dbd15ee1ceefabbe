"""Puts a job together and sees it through: stores, data, network, method, engine, tracker,
trainer."""

import logging
import resource
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import torch

from adapt.checkpoint.run_folder import RunFolder
from adapt.data.packed.packed_split import PackedSplit
from adapt.engine.engine import Engine, prepare_device
from adapt.methods import METHODS, build_method
from adapt.places import Place
from adapt.ranks import barrier, open_ranks
from adapt.spec.job_spec import JobSpec
from adapt.stream.config import DomainConfig
from adapt.stream.feed import Feed
from adapt.trainer.networks import build_network, check_networks, start_adversaries
from adapt.trainer.opening import (
    SOURCE_STREAM,
    TARGET_STREAM,
    JobData,
    open_cache,
    open_data,
    open_run_folder,
    open_stores,
    open_stream,
)
from adapt.trainer.progress import Progress
from adapt.trainer.resume import resume
from adapt.trainer.shared_stop import shared
from adapt.trainer.tracked_run import _tracking
from adapt.trainer.trainer import Outcome, Trainer
from storage.shards.fetch import PATIENCE_S

log = logging.getLogger(__name__)

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


def _close(data: JobData) -> None:
    for split in data:
        if split is not None:
            split.close()
