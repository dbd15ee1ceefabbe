"""The command `check`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.models import PIPED_WIDTH
from adapt.cli.options import PROFILE_HELP, AsJson, Overrides, SpecPath, console, job_and_place
from adapt.places import Place

if TYPE_CHECKING:
    from adapt.platforms.platform import Finding
    from adapt.spec.job_spec import JobSpec

commands = typer.Typer()


@commands.command()
def check(
    spec: SpecPath,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="PROFILE", help=PROFILE_HELP, autocompletion=completion.profiles
        ),
    ] = None,
    overrides: Overrides = None,
    spec_only: Annotated[
        bool, typer.Option("--spec", help="Touch no data: print the resolved spec if it is valid.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a job before it costs money: data, stores, MLflow, weights, machine, GPU memory.

    Writes one probe object where checkpoints go, and deletes it. The exit code is that of the first
    problem: 2 spec or platform, 3 storage or MLflow, 4 data.
    """
    job, place = job_and_place(spec, overrides)
    if spec_only:
        _print_spec(job, place, as_json)
        return
    from adapt.check import Subject, exit_code_of, findings
    from adapt.platforms import load_profile
    from adapt.platforms.submit import priced

    profile = None if to is None else load_profile(to)
    subject = Subject(job if profile is None else priced(job, profile), place, profile)
    with console.status("checking"):
        found = list(findings(subject))
    code = exit_code_of(found)
    if as_json:
        answer = {"ok": code == 0, "exit_code": code, "findings": [one._asdict() for one in found]}
        print_answer(answer)
    else:
        shown = console if console.is_terminal else Console(stderr=True, width=PIPED_WIDTH)
        shown.print(_table(found))
    raise typer.Exit(code)


def _print_spec(job: "JobSpec", place: Place, as_json: bool) -> None:
    from adapt.trainer.problems import refuse_problems

    refuse_problems(job, place)
    if as_json:
        print_answer(job.resolved())
        return
    console.print(f"[green]valid[/green]: run {job.name!r}")
    typer.echo(job.to_yaml(), nl=False)


def _table(found: Sequence["Finding"]) -> Table:
    table = Table(show_header=False, show_lines=False)
    for one in found:
        mark = Text("ok", "green") if one.ok else Text("no", "bold red")
        fix = [] if one.ok or not one.fix else [Text(f"Fix: {one.fix}", "yellow")]
        table.add_row(mark, Text(one.what), Group(Text(one.found), *fix))
    return table
