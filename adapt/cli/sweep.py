"""The command that searches keys of a job spec: sweep. Optuna is imported where it is used."""

import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapt.cli import completion
from adapt.cli.jobs import stop_on_signals
from adapt.cli.messages import print_answer
from adapt.cli.options import PROFILE_HELP, AsJson, Overrides, SpecPath, console, place_here
from adapt.errors import JobError
from adapt.sweep.options import TRIALS, Limits, Pruner, Sampler, Search

if TYPE_CHECKING:
    from adapt.sweep.plan import Plan
    from adapt.sweep.run_plan import Result

commands = typer.Typer()

SWEEP_LIBRARIES = "pip install 'segadapt[sweep]'"
"""The fix where Optuna is missing."""
_ROWS = 30
"""Trials that the table at the end shows; the page has all."""


@commands.command()
def sweep(
    spec: SpecPath,
    space: Annotated[
        str,
        typer.Option(
            "--space", metavar="SPACE", help="YAML: keys of the spec with ranges or choices."
        ),
    ],
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Trials of the sweep, over all starts; default: {TRIALS}, or all of a grid.",
        ),
    ] = None,
    sampler: Annotated[
        Sampler,
        typer.Option(help="How points are drawn: by earlier scores (tpe, cma_es) or not."),
    ] = "tpe",
    pruner: Annotated[
        Pruner,
        typer.Option(help="How trials that fall behind are ended at an evaluation."),
    ] = "median",
    seed: Annotated[
        int, typer.Option(min=0, help="Start of the sampler's random numbers; not the job's seed.")
    ] = 0,
    parallel: Annotated[
        int,
        typer.Option(
            min=1, help="Trials at the same time, which share the GPUs, or the cores, evenly."
        ),
    ] = 1,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PROFILE",
            help=f"Train on a platform. {PROFILE_HELP}",
            autocompletion=completion.profiles,
        ),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Hours of the sweep over all starts.")
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="Cost of all trials together, in the price's currency."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the sweep; default: the run's name with -sweep.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the sweep; default: beside the runs, else runs/NAME."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Database of the study, as SQLAlchemy names it; default: a file."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show space, first points and cost; start nothing."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --to: submit without confirmation.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search the best values of a spec's keys: trials are ordinary jobs, scored as the spec says.

    The same command continues a sweep that was stopped or killed, and its trials from their
    checkpoints. SIGTERM and Ctrl-C save all trials and end with 75. The best spec is written to
    best.yaml, the trials are tables in sweep.html.
    """
    from adapt.platforms import load_profile

    planning, running = _with_optuna()
    plan = planning.prepare(
        spec,
        space,
        overrides or [],
        Search(sampler, pruner, seed, parallel),
        Limits(trials, max_hours, max_cost),
        place_here(),
        name=name,
        out=out,
        storage=storage,
        profile=None if to is None else load_profile(to),
    )
    if dry_run:
        _show_plan(plan, planning, as_json)
        return
    if to is not None:
        _confirm(planning.facts(plan), yes)
    stop, terminated = _stops()
    result = running.run_plan(plan, stop, terminated.is_set, _say)
    _show_result(plan, result, as_json)


def _load() -> tuple[Any, Any]:
    from adapt.sweep import plan, run_plan

    return plan, run_plan


def _with_optuna() -> tuple[Any, Any]:
    """The modules that plan and run, which need Optuna. Raises `JobError` without it."""
    try:
        return _load()
    except ModuleNotFoundError as error:
        if error.name not in ("optuna", "cmaes"):
            raise
        raise JobError(
            f"sweep: expected the package {error.name}, got none", SWEEP_LIBRARIES
        ) from error


def _stops() -> tuple[Event, Event]:
    """Events: a stop was asked for; it was asked for by SIGTERM, which SIGKILL follows."""
    stop, terminated = stop_on_signals(), Event()
    ask: Any = signal.getsignal(signal.SIGTERM)

    def terminate(number: int, frame: object) -> None:
        terminated.set()
        ask(number, frame)

    signal.signal(signal.SIGTERM, terminate)
    return stop, terminated


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _confirm(facts: dict[str, str], yes: bool) -> None:
    from adapt.cli.confirm import confirm, show_facts

    show_facts(facts)
    confirm("sweep", "Start?", yes, "pass --yes to start or --dry-run to preview")


def _show_plan(plan: "Plan", planning: Any, as_json: bool) -> None:
    from adapt.cli.confirm import show_facts

    facts = planning.facts(plan)
    points = [one.drawn for one in planning.first_points(plan)]
    if as_json:
        print_answer({**facts, "first": points})
        return
    show_facts(facts)
    for number, point in enumerate(points):
        shown = ", ".join(f"{key}={_shown(value)}" for key, value in point.items())
        print_answer(f"t{number:04d}: {shown}")


def _show_result(plan: "Plan", result: "Result", as_json: bool) -> None:
    if as_json:
        print_answer(_as_json(plan, result))
        return
    from rich.table import Table

    keys = [one.name for one in plan.space.dimensions]
    table = Table("run", "result", "step", *keys, "hours")
    for row in result.rows[:_ROWS]:
        values = (_shown(row.drawn.get(key, "")) for key in keys)
        step, hours = "" if row.step is None else str(row.step), f"{row.spent.seconds / 3600:.2f}"
        table.add_row(row.run, row.result, step, *values, hours)
    console.print(table)
    _say(result.why)
    if result.best is None:
        _say("no trial is complete, so there is no best one")
        return
    score = plan.job.evaluate.score
    _say(f"best: {result.best.run}, {score} {result.best.score:.2%}")
    _say(f"its spec: {result.best_path}; all trials: {result.page_path}")


def _as_json(plan: "Plan", result: "Result") -> dict[str, Any]:
    return {
        "sweep": plan.name,
        "score": plan.job.evaluate.score,
        "ended": result.why,
        "best": None if result.best is None else result.best.run,
        "best_spec": result.best_path,
        "page": result.page_path,
        "trials": [
            {**row._asdict(), "spent": row.spent._asdict(), "drawn": dict(row.drawn)}
            for row in result.rows
        ],
    }


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
