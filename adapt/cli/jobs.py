"""Commands that train: run, check, demo, schema."""

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.options import AsJson, Overrides, SpecPath, console, place_here
from adapt.places import Place
from adapt.spec import JobSpec, json_schema, load_spec

if TYPE_CHECKING:
    from adapt.trainer import Outcome

commands = typer.Typer()


@commands.command()
def run(
    spec: SpecPath,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option(help="Delete the run's checkpoints and start over.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Ranks on this machine, started by torchrun: one a GPU.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Train: from the newest checkpoint of this run where there is one, else from the start."""
    from adapt.job import run_job
    from adapt.launch import launch
    from adapt.live import LiveLine

    job, place = load_spec(spec, overrides or ()), place_here()
    if processes > 1 and not place.launched:
        job.check_environment(place.environment)
        job.check_ranks(processes)
        raise typer.Exit(launch(sys.argv, processes, place.grace_s, place.environment))
    with LiveLine(console, quiet=not place.leader) as line:
        outcome = run_job(job, place, stop_on_signals(place.leader), line.show, fresh)
    if place.leader:
        _say_outcome(job, place, outcome, as_json)


@commands.command()
def check(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say whether a job spec is valid, and what it comes to.

    Touches no data and no GPU.
    """
    from adapt.job_data import check_networks

    job, place = load_spec(spec, overrides or ()), place_here()
    job.check_environment(place.environment)
    job.check_ranks(place.num_ranks)
    check_networks(job)
    if as_json:
        typer.echo(json.dumps(job.resolved()))
        return
    console.print(f"[green]valid[/green]: run {job.name!r}")
    typer.echo(job.to_yaml(), nl=False)


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Start of all random numbers.")] = 1,
    method: Annotated[str, typer.Option(help="Adaptation method to show.")] = "advent",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo's runs.")] = False,
) -> None:
    """Render two small towns, train on one, adapt to the other, and show what it brought."""
    from adapt.demo import run_demo

    run_demo(out, seed, method, place_here(), console, stop_on_signals(), fresh)


@commands.command()
def schema() -> None:
    """Print the JSON schema of job specs, for editors."""
    typer.echo(json_schema(), nl=False)


def stop_on_signals(tell: bool = True) -> Event:
    """An event that SIGTERM and SIGINT set; the first one is told."""
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


def _say_outcome(job: JobSpec, place: Place, outcome: "Outcome", as_json: bool) -> None:
    from adapt.job import tracking_uri

    best = None if outcome.best is None else outcome.best._asdict()
    answer = {"run": job.name, "step": outcome.step, "best": best, "figures": outcome.figures}
    if as_json:
        typer.echo(json.dumps({**answer, "tracking_uri": tracking_uri(job, place)}))
        return
    console.print(f"[green]done[/green]: {job.name}, {outcome.step} steps")
    if outcome.best is not None:
        score = f"{job.evaluate.select_by} {outcome.best.score:.2%}"
        console.print(f"best checkpoint: {outcome.best.name}, {score}")
        where = tracking_uri(job, place)
        command = f"python entrypoint.py download-best {job.name} --out best --tracking-uri {where}"
        console.print(f"fetch it: {command}", highlight=False, soft_wrap=True)
