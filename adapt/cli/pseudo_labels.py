"""The command `pseudo-labels`."""

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapt.cli.options import AsJson, Overrides, SpecPath, console, job_and_place

commands = typer.Typer()


@commands.command()
def pseudo_labels(
    spec: SpecPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make the pseudo-labels of a two-stage job, as its first stage will, and show their shares.

    They stay in the run's folder: `run` trains on them, `inspect` draws them. Labels that are there
    already are shown. Nothing is trained.
    """
    from adapt.cli.live import progress_bar
    from adapt.trainer.label_job import label_job

    job, place = job_and_place(spec, overrides)
    with progress_bar("labelling", console) as advance:
        summary = label_job(job, place, advance)
    if as_json:
        typer.echo(json.dumps(summary._asdict()))
        return
    console.print(f"labelled by {summary.weights_uri}", soft_wrap=True, markup=False)
    share = f"{summary.labelled_share:.1%} of the pixels"
    Console().print(_table(job.classes.names, summary), f"{share} have a label", sep="\n")
    for split, samples in summary.splits.items():
        console.print(f"{samples} images in {summary.uri}, split {split}", soft_wrap=True)
    first = next(iter(summary.splits))
    command = f"segadapt inspect {summary.uri} --split {first} --sheet labels.png"
    console.print(f"see them: {command}", soft_wrap=True, highlight=False)


def _table(names: tuple[str, ...], summary: Any) -> Table:
    """A row a class: its share of the labels, of its own pixels, and what the method adds."""
    table = Table("class")
    columns = {"labels %": summary.label_shares, **summary.shown}
    for heading in columns:
        table.add_column(heading, justify="right")
    for index, name in enumerate(names):
        cells = [_cell(heading, values[index]) for heading, values in columns.items()]
        table.add_row(Text(name), *cells)
    return table


def _cell(heading: str, value: float) -> str:
    return f"{100 * value:.2f}" if heading.endswith("%") else f"{value:.4f}"
