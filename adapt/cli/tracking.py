"""Commands about MLflow: sync-metrics."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.options import AsJson, console, place_here
from adapt.errors import JobError
from storage.store import StoreError

commands = typer.Typer()


@commands.command()
def sync_metrics(
    spool: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SPOOL|FOLDER]",
            help="A spool (*.jsonl) or a folder of them; default: where jobs here leave theirs.",
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI, else ./runs/mlflow.db."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=1, help="Longest time for one spool, in seconds.")
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Send what jobs could not deliver to MLflow before they ended.

    Not for the spool of a job that still runs: that one delivers it itself. Ends with 3 where
    something stays.
    """
    from adapt.job import embedded_tracking_uri
    from adapt.tracker import deliver_spool

    place = place_here()
    spools = _spools(spool or place.scratch_dir / "tracking")
    uri = tracking_uri or place.tracking_uri or embedded_tracking_uri(Path("runs"))
    sent: dict[str, bool] = {}
    for path in spools:
        sent[str(path)] = deliver_spool(path, uri, timeout_s)
        word = "delivered" if sent[str(path)] else "not all delivered, it stays"
        console.print(f"{path}: {word}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps(sent))
    left = [path for path, done in sent.items() if not done]
    if left:
        raise StoreError(f"MLflow did not take all of {', '.join(left)}: see that it is up")
    if not spools:
        console.print("nothing waits")


def _spools(path: Path) -> list[Path]:
    """The spools that a path names. Raises `JobError` where there is no such file or folder."""
    if path.is_file():
        return [path]
    if path.suffix == ".jsonl":
        raise JobError(f"{path}: there is no such spool")
    return sorted(path.glob("*.jsonl"))
