"""A sweep from its command line: job spec, space, study, runner, limits; and its results."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch
from optuna.trial import FrozenTrial

from adapt.check.subject import Subject
from adapt.config.strict_yaml import read_yaml
from adapt.errors import Interrupted, JobError
from adapt.evaluation.protocol import sign
from adapt.places import Place
from adapt.platforms.platform import Profile
from adapt.platforms.submit import priced
from adapt.spec.job_spec import JobSpec, load_spec, read_values
from adapt.sweep import study as studies
from adapt.sweep.local import LocalRunner
from adapt.sweep.options import TRIALS, Limits, Search
from adapt.sweep.page import sweep_page
from adapt.sweep.result import Row, best_spec, rows
from adapt.sweep.runner import Runner
from adapt.sweep.space import Drawn, Space, read_space
from adapt.sweep.submitted import PlatformRunner, seen_from_here
from adapt.sweep.sweep import Sweep
from adapt.sweep.tracked import SweepRun
from adapt.sweep.trial_job import Base, check_space
from adapt.tracking.tracker import Status
from adapt.trainer.problems import ALL, WITHOUT_SECRETS
from adapt.trainer.tracked_run import tracking_uri
from storage.files import atomic_file
from storage.uris import split_uri

BEST, PAGE = "best.yaml", "sweep.html"
FIRST = 5
"""Suggestions that a preview shows."""


@dataclass(frozen=True)
class Plan:
    """A sweep that is checked: nothing has been started or written yet.

    `job` is the spec's, `folder` the sweep's own, `storage` the study's database.
    """

    base: Base
    job: JobSpec
    space: Space
    search: Search
    limits: Limits
    name: str
    folder: Path
    storage: str
    place: Place
    profile: Profile | None = None

    @property
    def trained(self) -> JobSpec:
        """The job with the price of the machine that trains."""
        return self.job if self.profile is None else priced(self.job, self.profile)


class Result(NamedTuple):
    """The end of a sweep: why it ended, its trials, the best one's run, score and spec."""

    why: str
    rows: list[Row]
    best: Row | None
    best_path: Path | None
    page_path: Path | None


def prepare(
    spec: str,
    space: str,
    overrides: list[str],
    search: Search,
    limits: Limits,
    place: Place,
    *,
    name: str | None = None,
    out: Path | None = None,
    storage: str | None = None,
    profile: Profile | None = None,
) -> Plan:
    """Check all that can be known before the first trial. Raises `JobError`, `StoreError`."""
    job = load_spec(spec, overrides, place.environment)
    _refuse_without_score(job)
    base = Base(read_values(spec, overrides, place.environment), job.name)
    values = read_yaml(space, place.environment)
    try:
        known = read_space(values, base.takes)
        check_space(known, base)
        points = known.points() if search.sampler == "grid" else None
    except JobError as error:
        raise JobError(f"{space}: {error.problem}", error.fix) from error
    if limits.trials is None:
        limits = replace(limits, trials=TRIALS if points is None else len(points))
    name = name or f"{job.name}-sweep"
    folder = out or _folder(job) / name
    plan = Plan(
        base, job, known, search, limits, name, folder, storage or studies.database(folder), place
    )
    plan = replace(plan, profile=profile)
    _refuse_without_price(plan)
    if profile is not None:
        seen_from_here(job, profile)
    return plan


def _refuse_without_score(job: JobSpec) -> None:
    if job.validation is None:
        raise JobError(
            "validation: expected a split that trials are scored on, got none",
            "name one; with a score such as information_maximisation it needs no labels",
        )
    if job.evaluate.by_agreement:
        raise JobError(
            "evaluate.select_by: expected a score that compares runs, got ensemble_agreement, "
            "which compares the checkpoints of one run",
            "set evaluate.select_by=information_maximisation, or another score",
        )


def _refuse_without_price(plan: Plan) -> None:
    if plan.limits.cost is not None and plan.trained.report.price_per_hour is None:
        raise JobError(
            "--max-cost: expected a price to count by, got neither report.price_per_hour nor a "
            "profile's price",
            "set report.price_per_hour, or price_per_hour of the profile",
        )


def _folder(job: JobSpec) -> Path:
    scheme, path = split_uri(job.checkpoint.uri)
    return Path(path if scheme == "file" else "runs")


def facts(plan: Plan) -> dict[str, str]:
    """The facts to confirm, a line each."""
    search, limits = plan.search, plan.limits
    where = "this machine" if plan.profile is None else plan.profile.platform
    beside = f"{search.parallel} side by side on {where}" if search.parallel > 1 else where
    return {
        "sweep": f"{plan.name}: {plan.job.name} by {plan.job.evaluate.score}",
        **{one.name: one.text() for one in plan.space.dimensions},
        "search": f"{search.sampler}, pruner {search.pruner}, seed {search.seed}",
        "trials": f"{limits.trials}, {beside}",
        "cost": cost_bound(plan),
        "study": plan.storage,
        "results": str(plan.folder),
    }


def cost_bound(plan: Plan) -> str:
    """The most that the sweep may cost, as far as that is known."""
    job, limits, profile = plan.trained, plan.limits, plan.profile
    price, currency = job.report.price_per_hour, job.report.currency
    hours = "" if limits.hours is None else f"at most {limits.hours:g} hours"
    if price is None:
        return f"{hours or 'without a limit of time'}; no price is known"
    bounds = [] if limits.cost is None else [(limits.cost, "--max-cost")]
    nodes = 1 if profile is None else profile.nodes
    at_once = nodes * (plan.search.parallel if profile is not None else 1)
    if limits.hours is not None:
        bounds.append((limits.hours * price * at_once, f"--max-hours {limits.hours:g}"))
    each = job.train.max_cost
    longest = None if profile is None else profile.longest_hours()
    if longest is not None and (each is None or longest * price * nodes < each):
        each = longest * price * nodes
    if each is not None:
        bounds.append((each * (limits.trials or 0), f"{limits.trials} trials"))
    if not bounds:
        return f"{price:g} {currency} a node an hour, without a limit (--max-cost sets one)"
    most, why = min(bounds)
    return f"at most {most:.2f} {currency} ({why}), by {price:g} a node an hour"


def first_points(plan: Plan) -> list[Drawn]:
    """The first points that the sweep would draw, before any score is known."""
    study = studies.open_study(None, plan.name, plan.job, plan.space, plan.search)
    count = min(FIRST, plan.limits.trials or FIRST)
    return [studies.ask(study, plan.space, plan.search)[1] for _ in range(count)]


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
    gpus = torch.cuda.device_count()
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
