"""Runs a job from start to end: data, network, method, engine, MLflow run, trainer."""

import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from adapt.accelerator import is_accelerator, num_accelerators
from adapt.checkpoint.run_folder import RunFolder
from adapt.engine.device import prepare_device
from adapt.engine.engine import Engine
from adapt.engine.gpu import check_gpu, gpu_text
from adapt.methods import build_method
from adapt.places import Place
from adapt.ranks import barrier, open_ranks
from adapt.report.history import History
from adapt.spec.job_spec import JobSpec
from adapt.tracking.tracker import Tracker
from adapt.trainer.base_left_out import restart, with_base_of
from adapt.trainer.budget import Budget
from adapt.trainer.feeds import check_feeds, open_feeds
from adapt.trainer.journal import Journal
from adapt.trainer.labelling import Watch, labelled, labels_uri, on_new_labels, round_end
from adapt.trainer.networks import build_network, start_adversaries
from adapt.trainer.opening import Opened, open_job, stores_awaited
from adapt.trainer.outcome import Outcome
from adapt.trainer.problems import refuse_problems
from adapt.trainer.progress import JobProgress, told
from adapt.trainer.reporting import leave_report, open_history
from adapt.trainer.resume import Checkpoint, engine_state, resume
from adapt.trainer.saves import Evaluated, Saves
from adapt.trainer.selection import Selection
from adapt.trainer.shared_stop import shared
from adapt.trainer.teacher_network import build_teacher
from adapt.trainer.teachers import build_add_ons
from adapt.trainer.tracked_run import tracked_run
from adapt.trainer.trainer import Trainer
from adapt.trainer.writer import sole_writer
from storage.shards.fetch import RETRY_TIME_S

if TYPE_CHECKING:
    from adapt.trainer.profiler import Profiler

log = logging.getLogger(__name__)

RANKS_WAIT = timedelta(seconds=3 * RETRY_TIME_S)
"""Timeout of ranks that wait for one another: longer than any of them for an unreachable store."""


def run_job(
    job: JobSpec,
    place: Place,
    stop: Event,
    on_progress: Callable[[JobProgress], None] = lambda _progress: None,
    fresh: bool = False,
    beat: Callable[[], None] = lambda: None,
    begin: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train from the newest checkpoint, or from the start, to the end of the job.

    `beat` is called after every piece of progress, for a watchdog; `begin` once, after every check:
    what ends the job before leaves its MLflow run as it is. Raises `JobError`, `StoreError`,
    `DataError`, and `Interrupted` once `stop` is set and all is saved.
    """
    began_s = time.monotonic()
    refuse_problems(job, place)
    allow_open_files()
    device = prepare_device(place.local_rank)
    check_gpu(device, place.environment)
    _warn_of_idle_gpus(device, place)
    with ExitStack() as stack:
        stack.enter_context(open_ranks(place, device, RANKS_WAIT))
        stack.enter_context(shared(stop))
        on_progress = stack.enter_context(told(place, on_progress))
        watch = Watch(stop.is_set, lambda _done, _total: beat())
        with stores_awaited(stop, beat):
            opened = stack.enter_context(open_job(job, place))
            _say_what_is_open(opened, device)
            opened = stack.enter_context(sole_writer(opened, stop))
            if fresh and place.leader:
                opened.folder.clear()
            barrier()
            job = opened.job  # with the score that chooses on this split
            state = resume(opened.folder, job, place.leader)
            first = stack.enter_context(labelled(opened, state, device, watch))
            engine = _engine(first, device, state)
            evaluated = _load(engine, state, opened)
            beat()
            history = open_history(first, device, state, began_s, fresh)
            if engine.step_count < job.train.steps and not evaluated.selection.enough(job.evaluate):
                Budget(job, history).refuse_used_up()
            check_feeds(first, None if state is None else on_new_labels(state, first))
            tracker = stack.enter_context(tracked_run(opened, state, stop, beat))
            begin()
        profiler = stack.enter_context(_profiler(opened, engine, tracker, began_s))
        running = Running(engine, tracker, history, on_progress, stop, beat, profiler)
        outcome = _train_in_rounds(first, running, state, evaluated, watch)
        if profiler is not None:
            profiler.finish(stop, beat)
        leave_report(opened, history, tracker, stop, beat)
        if place.leader and place.model_dir is not None:
            _deliver(opened.folder, outcome, place.model_dir)
        return outcome


class Running(NamedTuple):
    """The parts of a job that all its rounds of training share."""

    engine: Engine
    tracker: Tracker | None
    history: History | None
    on_progress: Callable[[JobProgress], None]
    stop: Event
    beat: Callable[[], None]
    profiler: "Profiler | None"


@contextmanager
def _profiler(
    opened: Opened, engine: Engine, tracker: Tracker | None, began_s: float
) -> "Iterator[Profiler | None]":
    """The leader's profiler, of a job that has one."""
    if not opened.job.train.profile_steps or not opened.place.leader:
        yield None
        return
    from adapt.trainer.profiler import Profiler

    with closing(Profiler(opened, engine, tracker, began_s)) as profiler:
        yield profiler


def _train_in_rounds(
    first: Opened,
    running: Running,
    state: Checkpoint | None,
    evaluated: Evaluated,
    watch: Watch,
) -> Outcome:
    """Train to the end of the job: one round, but for methods that label the target anew. Each
    later one has the job's data opened for itself."""
    engine, job = running.engine, first.job
    outcome, trainer = _train_round(first, running, state, evaluated)
    while engine.step_count < job.train.steps and not outcome.stopped_early:
        state = {**trainer.feeds.state, "engine": engine.state_dict()}
        with ExitStack() as stack:
            with stores_awaited(running.stop, running.beat):
                opened = stack.enter_context(open_job(job, first.place))
                opened = opened._replace(folder=first.folder)
                opened = stack.enter_context(labelled(opened, state, engine.device, watch))
            outcome, trainer = _train_round(opened, running, state, trainer.evaluated)
    return outcome


def _train_round(
    opened: Opened, running: Running, state: Checkpoint | None, evaluated: Evaluated
) -> tuple[Outcome, Trainer]:
    """Train on the data that are open, to the end of the round."""
    engine, tracker, history, on_progress, stop, beat, profiler = running
    state = None if state is None else on_new_labels(state, opened)
    if tracker is not None and opened.labels is not None:
        tracker.log_tags({"segadapt.pseudo_labels": labels_uri(opened)})
    with ExitStack() as stack:
        with stores_awaited(stop, beat):
            feeds = stack.enter_context(open_feeds(opened, engine, state, stop))
            journal = Journal(opened, engine, feeds, tracker, history, on_progress)
            saves = Saves(opened, engine, feeds, journal, evaluated, beat)
            stack.enter_context(closing(saves))
        until = round_end(opened.job, engine.step_count)
        parts = (opened, engine, feeds, journal, saves, evaluated, stop, beat, until)
        trainer = Trainer(*parts) if profiler is None else _profiled(*parts, profiler)
        return trainer.run(), trainer


def _profiled(*parts: Any) -> Trainer:
    from adapt.trainer.profiled import ProfiledTrainer

    return ProfiledTrainer(*parts)


def allow_open_files() -> None:
    """Let this process open as many files as the system allows: under `stream.sampling: papers`
    and `rare_classes` hundreds of shards are open at the same time."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn_of_idle_gpus(device: torch.device, place: Place) -> None:
    gpus = num_accelerators()
    if is_accelerator(device) and gpus > place.num_ranks == 1:
        log.warning("1 of %d GPUs is used. Fix: run --processes %d", gpus, gpus)


def _say_what_is_open(opened: Opened, device: torch.device) -> None:
    """Log the job's data and networks, before the long work that comes until the first step."""
    job = opened.job
    if opened.place.leader:
        splits = {name: split for name, split in opened.data._asdict().items() if split is not None}
        counts = ", ".join(f"{len(split)} images of {name}" for name, split in splits.items())
        log.info("data: %s", counts)
        if opened.data.validation is not None and opened.data.validation.id_table is None:
            log.info("validation has no labels: %s chooses the checkpoint", job.evaluate.score)
        network = f"{job.model.architecture} on {job.model.encoder}"
        what = f"{job.method.name} trains {network}"
        log.info("%s for %d steps on %s", what, job.train.steps, device)
        if is_accelerator(device):
            log.info("GPU of each rank: %s", gpu_text(device))


def _engine(opened: Opened, device: torch.device, state: Checkpoint | None) -> Engine:
    """The job's network, method and optimizers, at their start, of which a state may leave out
    what is frozen."""
    job, stores = opened.job, opened.stores
    torch.manual_seed(job.seed)
    pixels = torch.from_numpy(opened.data.source.label_pixels(job.classes.num_classes))
    network = build_network(job, stores, resumed=state is not None)
    if state is None:
        network.start_adapters()
    else:
        restart(network, state["engine"])
    network.set_loss(job.loss, pixels)
    teacher = build_teacher(job, stores, opened.place, resumed=state is not None)
    if teacher is not None:
        teacher.set_loss(job.loss, pixels)
    method = build_method(job.method, network, build_add_ons(job, network, stores), teacher)
    method.observe_source(pixels)
    start_adversaries(job, stores, method)
    return Engine(method, job.train, job.optim, device, seed=job.seed)


def _load(engine: Engine, state: Checkpoint | None, opened: Opened) -> Evaluated:
    """Load a checkpoint into the engine, if there is one; its last evaluation."""
    if state is not None:
        make = partial(engine.parallel.empty, engine.device)
        found = engine_state(opened.folder, state, make)
        engine.load_state_dict(with_base_of(engine, found))
        log.info("resumed at step %d of %d", engine.step_count, opened.job.train.steps)
    engine.share_all()
    if state is None:
        return Evaluated()
    selection = Selection.parsed(state.get("selection", {}))  # older checkpoints have none
    return Evaluated(state["evaluated_step"], state["figures"], selection)


def _deliver(folder: RunFolder, outcome: Outcome, out: Path) -> None:
    """Leave the best weights, or the last without an evaluation, where the platform keeps them."""
    name = folder.names()[-1] if outcome.best is None else outcome.best.name
    folder.deliver(name, out)
    log.info("the weights of %s are in %s, for the platform to keep", name, out)
