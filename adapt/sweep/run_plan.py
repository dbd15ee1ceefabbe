"""A planned sweep carried out by one process: study, runner, tracking; and its results."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial

from adapt.accelerator import num_accelerators
from adapt.check.subject import Subject
from adapt.errors import Interrupted, JobError
from adapt.evaluation.protocol import sign
from adapt.places import Place
from adapt.sweep import study as studies
from adapt.sweep.local import LocalRunner
from adapt.sweep.page import sweep_page
from adapt.sweep.plan import Plan
from adapt.sweep.result import Row, best_spec, rows
from adapt.sweep.runner import Runner
from adapt.sweep.submitted import PlatformRunner
from adapt.sweep.sweep import Sweep
from adapt.sweep.tracked import SweepRun
from adapt.tracking.tracker import Status
from adapt.trainer.problems import ALL, WITHOUT_SECRETS
from adapt.trainer.tracked_run import tracking_uri
from storage.files import atomic_file

BEST, PAGE = "best.yaml", "sweep.html"


class Result(NamedTuple):
    """The end of a sweep: why it ended, its trials, the best one's run, score and spec."""

    why: str
    rows: list[Row]
    best: Row | None
    best_path: Path | None
    page_path: Path | None


def run_plan(
    plan: Plan, stop: Event, urgent: Callable[[], bool], say: Callable[[str], None]
) -> Result:
    """Search to a limit, and leave the results. Raises as `Sweep.run`, with the results left."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _alone(plan.folder):
        study = studies.open_study(plan.storage, plan.name, plan.job, plan.space, plan.search)
        runner, place = _runner(plan)
        uri = _tracking_uri(plan)
        tracked = SweepRun(plan.job, plan.name, plan.storage, plan.space, uri, plan.place)
        sweep = Sweep(
            replace(plan.base, values=_priced_values(plan)),
            plan.space,
            plan.search,
            plan.limits,
            study,
            runner,
            place,
            tracked.parent_run,
            say,
            stop,
            plan.trained.report.price_per_hour,
            ALL if plan.profile is None else WITHOUT_SECRETS,
            tracked.on_end,
            urgent,
        )
        status: Status = "FAILED"
        try:
            why = sweep.run()
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            best, trials = studies.best_of(study), study.get_trials(deepcopy=False)
            files = _write_results(plan, study)
            tracked.finish(status, files, trials, best, plan.base.name)
    return _result(plan, why, trials, best)


def _result(plan: Plan, why: str, trials: list[FrozenTrial], best: FrozenTrial | None) -> Result:
    found = rows(trials, plan.base.name, sign(plan.job.evaluate.score))
    if best is None:
        return Result(why, found, None, None, None)
    return Result(why, found, found[0], plan.folder / BEST, plan.folder / PAGE)


def _write_results(plan: Plan, study: Any) -> dict[str, str]:
    """Write the best spec and the page, once a trial is complete; their texts by name."""
    best, trials = studies.best_of(study), study.get_trials(deepcopy=False)
    if best is None:
        return {}
    score = plan.job.evaluate.score
    found = rows(trials, plan.base.name, sign(score))
    files = {
        BEST: best_spec(plan.base, plan.space, best, trials, score),
        PAGE: sweep_page(plan.name, study, plan.space, found, score),
    }
    for name, text in files.items():
        with atomic_file(plan.folder / name) as file:
            file.write(text.encode())
    return files


def _runner(plan: Plan) -> tuple[Runner, Place]:
    """The runner, and the place of a trial's job with its ranks."""
    if plan.profile is not None:
        runner: Runner = PlatformRunner(plan.profile, plan.place, plan.search.parallel)
        return runner, Subject(plan.job, plan.place, plan.profile).place_of_job
    gpus = num_accelerators()
    slots = plan.search.parallel
    local = LocalRunner(plan.place, plan.folder / "trials", slots, gpus)
    ranks = plan.place.processes or max(1, gpus // slots)
    return local, replace(plan.place, num_ranks=ranks)


def _tracking_uri(plan: Plan) -> str | None:
    """The MLflow server of the trials, where this machine has the same one."""
    if plan.profile is None:
        return tracking_uri(plan.job, plan.place)
    return plan.job.tracking.uri or plan.profile.environment.get("MLFLOW_TRACKING_URI")


def _priced_values(plan: Plan) -> Mapping[str, Any]:
    """The spec's values with the profile's price, by which trials count their cost."""
    report = plan.trained.report
    if report == plan.job.report:
        return plan.base.values
    price = {"price_per_hour": report.price_per_hour, "currency": report.currency}
    return {**plan.base.values, "report": {**plan.base.values.get("report", {}), **price}}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process from the same sweep, as long as this one lives."""
    descriptor = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobError(
            f"{folder}: expected one process for this sweep, got a second one",
            "wait for its end or stop it, or give this sweep another name (--name)",
        ) from None
