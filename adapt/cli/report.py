"""Commands about runs that are there: report, compare, reproduce."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, stores_of
from adapt.errors import JobError

if TYPE_CHECKING:
    from adapt.report.run_record import RunRecord

commands = typer.Typer()

RUN_HELP = "Folder of a run, a path or a URI: runs/NAME."
Page = Annotated[Path, typer.Option("--out", help="The HTML file to write.")]


@commands.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    out: Page = Path("report.html"),
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Folder of the run that the classes are compared with; default: the spec's "
            "report.baseline, else the run's first evaluation.",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Price of one node an hour; default: the spec's."),
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="Currency of the price; default: the spec's.")
    ] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run from its newest checkpoint, also while it trains: one HTML file.

    A run writes its own at its end, as report.html in its folder and in MLflow.
    """
    from adapt.report.page import run_page

    record = _read(run, spec)
    other = baseline or _baseline_of(record, run)
    against = None if other is None else _read(other, spec)
    page = run_page(record, against, price_per_hour, currency)
    _write(page, out, [record], as_json)


@commands.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help=RUN_HELP)],
    out: Page = Path("compare.html"),
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file that compares runs: scores, classes, losses, pictures, specs, data.

    Differences are to the first run.
    """
    from adapt.report.page import compare_page

    if len(runs) < 2:
        raise JobError(
            f"RUN: expected two runs or more, got {len(runs)}",
            "name another, or use `segadapt report RUN`",
        )
    records = [_read(run, spec) for run in runs]
    _write(compare_page(records), out, records, as_json)


def _read(run: str, spec: str | None) -> "RunRecord":
    from adapt.report.run_record import read_run

    return read_run(stores_of(spec).open(run))


def _baseline_of(record: "RunRecord", run: str) -> str | None:
    """The baseline that a run's own spec names; a plain name is that of a run beside it."""
    from storage.uris import join

    named = record.spec.get("report", {}).get("baseline")
    if named is None or "/" in named:
        return named
    folder = run.rstrip("/").rpartition("/")[0]
    return join(folder or ".", named)


def _write(page: str, out: Path, records: "list[RunRecord]", as_json: bool) -> None:
    """Write the page and name it. Raises `StoreError` where it cannot be written."""
    from storage.files import atomic_file, file_errors

    with file_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as file:
            file.write(page.encode())
    if as_json:
        runs = [{"run": one.name, "step": one.step, "uri": one.uri} for one in records]
        print_answer({"page": str(out), "runs": runs})
        return
    for one in records:
        console.print(f"{one.name}: step {one.step} of {one.steps}", highlight=False)
    print_answer(str(out))
