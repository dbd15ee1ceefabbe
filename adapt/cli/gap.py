"""The command `gap`."""

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, Base, Overrides, SpecPath, console, job_and_place

commands = typer.Typer()

Trained = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A trained network, to show what has closed: the folder of a run or of a checkpoint, "
        "a file of weights, or models:/NAME@best.",
    ),
]


@commands.command()
def gap(
    spec: SpecPath,
    model: Trained = None,
    count: Annotated[
        int, typer.Option(min=10, help="Most images of each domain to compare.")
    ] = 100,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("gap.html"),
    base: Base = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare source and target before training, and say what to do: one HTML page.

    Colours, textures, frequencies and the encoder's features of both domains; with a network that
    was trained on the source (model.start_uri) or afterwards (--model) also its predictions.
    """
    from adapt.cli.live import progress_bar
    from adapt.gap.advice import advise
    from adapt.gap.diagnose import diagnose
    from adapt.gap.page import gap_page
    from adapt.gap.summary import summary

    job, place = job_and_place(spec, overrides)
    with progress_bar("comparing", console) as advance:
        found = diagnose(job, place, model=model, count=count, base=base, on_image=advance)
    advice = advise(found, spec)
    _write(gap_page(found, advice, job.name), out)
    if as_json:
        print_answer({"page": str(out), **summary(found, advice)})
        return
    for line in (*advice.reasons, *(one.text for one in advice.fixes)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(advice.sentence, style="bold", soft_wrap=True, highlight=False, markup=False)
    for line in advice.steps:
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    print_answer(str(out))


def _write(page: str, out: Path) -> None:
    """Raises `StoreError` where it cannot be written."""
    from storage.files import atomic_file, file_errors

    with file_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as file:
            file.write(page.encode())
