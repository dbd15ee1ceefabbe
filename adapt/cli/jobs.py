"""Commands that train: run, demo, schema."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.options import (
    SPEC_HELP,
    AsJson,
    MaxCost,
    Overrides,
    Profiled,
    console,
    place_here,
    with_options,
)
from adapt.errors import Interrupted, JobError
from adapt.places import Place, with_arguments

if TYPE_CHECKING:
    from adapt.launch.rank_status import WorkerStatus
    from adapt.spec.job_spec import JobSpec
    from adapt.trainer.outcome import Outcome

commands = typer.Typer()


EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
"""ModelArts appends `--NAME=VALUE` for every input, output and hyperparameter."""


@commands.command(context_settings=EXTRA)
def run(
    context: typer.Context,
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC]",
            help=f"{SPEC_HELP} Default: the one of the platform, or SEGADAPT_SPEC, or "
            "SEGADAPT_SPEC_BASE64.",
            autocompletion=completion.specs,
        ),
    ] = None,
    overrides: Overrides = None,
    fresh: Annotated[
        bool,
        typer.Option(
            help="Delete the run's checkpoints and start over; not for a command that a "
            "platform repeats."
        ),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Ranks on this machine; default: its GPUs."),
    ] = None,
    max_cost: MaxCost = None,
    profiled: Profiled = False,
    as_json: AsJson = False,
) -> None:
    """Train: from the newest checkpoint of this run where there is one, else from the start.

    On a platform its channels and hyperparameters change keys of the spec, then `--KEY=VALUE`, as
    platforms append them, then `--set`.
    """
    where, place = _spec_and_place(spec, context.args)
    if fresh:
        _check_fresh(place)
    if not place.supervised:
        raise typer.Exit(_supervise(place))
    from adapt.spec.loading import load_spec
    from storage.retry import outages_waited_for

    with outages_waited_for():
        own = with_options(overrides, max_cost, profiled)
        job = load_spec(where, [*place.overrides, *own], place.environment)
    context.obj.expect_beats(60 * job.train.stall_minutes)
    if not place.launched:
        _start_ranks(job, place, processes, context.obj)
    outcome = _train(job, place, fresh, context.obj)
    if place.leader:
        _say_outcome(job, place, outcome, as_json)


@commands.command(context_settings=EXTRA)
def train(context: typer.Context) -> None:
    """Run the job that the platform names: the command by which SageMaker starts an image."""
    run(context)


def _spec_and_place(spec: str | None, arguments: Sequence[str]) -> tuple[str, Place]:
    """The spec's name, and this place with the platform's `--KEY=VALUE`, among which the spec may
    stand anywhere."""
    words = [word for word in (spec, *arguments) if word]
    plain = [word for word in words if not word.startswith("--")]
    place = with_arguments(place_here(), [word for word in words if word not in plain[:1]])
    if plain or place.spec:
        return str(plain[0] if plain else place.spec), place
    raise JobError(
        f"SPEC: expected a job spec, got none, nor from the platform ({place.platform})",
        fix="give a path or a URI, or set SEGADAPT_SPEC or SEGADAPT_SPEC_BASE64",
    )


def _check_fresh(place: Place) -> None:
    if place.platform not in ("local", "docker"):
        raise JobError(
            f"--fresh: expected a run on this machine, got one on {place.platform}, which starts "
            "the same command again after an interruption and would delete the checkpoints",
            fix="give the run another name (--set name=...)",
        )


def _supervise(place: Place) -> int:
    """Run this very command in a child, whose ranks train; the exit code for the platform."""
    from adapt.launch.supervisor import launch, still_busy

    code = launch(place, _this_command())
    code = place.interrupted_code if code == Interrupted.exit_code else code
    if still_busy():  # the platform's grace is over
        os._exit(code)
    return code


def _this_command() -> list[str]:
    safe_path = "-P"  # modules of the folder that the job runs in are not the job's
    return [safe_path, "-m", "adapt", *sys.argv[1:]]


def _start_ranks(
    job: "JobSpec", place: Place, processes: int | None, status: "WorkerStatus"
) -> None:
    """In the supervisor's child: return where it is the job's only rank, else start this very
    command in ranks and exit as they do: as many as asked for, as the platform says, or as GPUs."""
    from adapt.accelerator import num_accelerators
    from adapt.launch.job_copy import write_job
    from adapt.trainer.problems import QUICK, refuse_problems

    processes = processes or place.processes or max(1, num_accelerators())
    num_ranks = processes * place.num_nodes
    refuse_problems(job, replace(place, num_ranks=num_ranks), QUICK)  # a rank checks the networks
    assert place.status_dir is not None, "the supervisor made it"
    write_job(place.status_dir, job)
    if num_ranks == 1:
        return
    from adapt.launch.elastic import run_elastic

    status.withdraw()
    raise typer.Exit(run_elastic(place, processes, _this_command(), place.status_dir))


def _train(job: "JobSpec", place: Place, fresh: bool, status: "WorkerStatus") -> "Outcome":
    """As one rank: train, showing reports where it leads."""
    from adapt.cli.live import LiveLine
    from adapt.trainer.run import run_job

    # the supervisor reports a stop itself
    stop = stop_on_signals(tell=place.leader and place.status_dir is None)
    with LiveLine(console, quiet=not place.leader) as line:
        return run_job(job, place, stop, line.show, fresh, status.beat, status.begin)


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs and the picture.")] = Path(
        "demo"
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of all random numbers.")
    ] = 1,
    method: Annotated[
        str,
        typer.Option(
            help="Adaptation method to compare with source only.",
            autocompletion=completion.toy_methods,
        ),
    ] = "dacs",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of every job, to see it run in less time; fewer show less gain."
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the runs of an earlier demo.")
    ] = False,
) -> None:
    """Render two small towns, train on one, adapt to the other, and print the gain."""
    from adapt.cli.demo import run_demo

    run_demo(out, seed, method, place_here(), console, stop_on_signals(), fresh, steps)


@commands.command()
def schema() -> None:
    """Print the JSON schema of job specs, for editors."""
    from adapt.spec.job_spec import json_schema

    typer.echo(json_schema(), nl=False)


def stop_on_signals(tell: bool = True) -> Event:
    """Return an event that SIGTERM and SIGINT set; the first signal is reported."""
    stop = Event()

    def ask(number: int, _frame: object) -> None:
        if stop.is_set():
            return
        stop.set()
        if not tell:
            return
        with suppress(RuntimeError):  # the signal may come inside a write to the same stream
            name = signal.Signals(number).name
            console.print(f"{name}: saving at the next step, then stopping (exit code 75)")

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def _say_outcome(job: "JobSpec", place: Place, outcome: "Outcome", as_json: bool) -> None:
    from adapt.evaluation.protocol import chosen_text
    from adapt.evaluation.quality_gate import gap_of
    from adapt.trainer.tracked_run import tracking_uri
    from storage.uris import without_password

    where = without_password(tracking_uri(job, place))
    best = None if outcome.best is None else outcome.best._asdict()
    rules = job.evaluate
    rule = {"protocol": rules.protocol, "chosen_by": outcome.chosen_by, "weights": rules.weights}
    early = outcome.stopped_early
    answer = {"run": job.name, "step": outcome.step, "best": best, **rule}
    answer["stopped_early"] = early or None
    answer["figures"] = outcome.metrics
    if as_json:
        print_answer({**answer, "tracking_uri": where})
        return
    ended = f" of {job.train.steps}, stopped early: {early}" if early else " steps"
    console.print(f"[green]done[/green]: {job.name}, {outcome.step}{ended}", highlight=False)
    if outcome.best is not None:
        score = f"{outcome.chosen_by} {outcome.best.score:.2%}"
        chosen = chosen_text(rules.protocol, outcome.chosen_by, rules.weights)
        console.print(f"best checkpoint: {outcome.best.name}, {score} ({chosen})")
        command = f"segadapt download-best {job.name} --out best --tracking-uri {where}"
        console.print(f"fetch it: {command}", highlight=False, soft_wrap=True)
    gap = gap_of(outcome.metrics, rules.weights, job.method.model_dump())
    if gap is not None:
        colour = "green" if gap.kept else "yellow"
        console.print(f"[{colour}]quality[/{colour}]: {gap.text()}", highlight=False)
