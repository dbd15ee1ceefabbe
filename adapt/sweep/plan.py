"""A sweep from its command line: job spec, space, search, limits; what it may cost."""

from dataclasses import dataclass, replace
from pathlib import Path

from adapt.config.strict_yaml import read_yaml
from adapt.errors import JobError
from adapt.places import Place
from adapt.platforms.platform import Profile
from adapt.platforms.submit import priced
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec, read_values
from adapt.sweep import study as studies
from adapt.sweep.options import TRIALS, Limits, Search
from adapt.sweep.space import Drawn, Space
from adapt.sweep.space_file import read_space
from adapt.sweep.submitted import seen_from_here
from adapt.sweep.trial_job import Base, check_space
from storage.uris import split_uri

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
