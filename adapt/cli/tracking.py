"""Commands about MLflow: sync-metrics."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.options import AsJson, console, place_here
from adapt.errors import JobError
from adapt.places import Place
from storage.errors import StoreError

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
        float, typer.Option(min=1, help="Longest time for all of them, in seconds.")
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Send what jobs could not deliver to MLflow before they ended.

    The spool of a job that still runs is left out: the job delivers it itself. Ends with 3 where
    something stays.
    """
    from adapt.tracking.mlflow_database import embedded_tracking_uri
    from storage.uris import without_password

    place = place_here()
    spools = [spool] if spool and spool.is_file() else _spools_in(place, spool)
    uri = tracking_uri or place.tracking_uri or embedded_tracking_uri(Path("runs"))
    end_s = time.monotonic() + timeout_s
    answers: dict[str, dict[str, object]] = {}
    for path in spools:
        answers[str(path)] = _send(path, uri, end_s - time.monotonic(), alone=path == spool)
    if as_json:
        typer.echo(json.dumps(answers))
    left = [path for path, answer in answers.items() if answer.get("left")]
    if left:
        raise StoreError(
            f"MLflow at {without_password(uri)} did not take all of {', '.join(left)}: see that it "
            "is up, then run the same command again"
        )
    if not spools:
        console.print("nothing waits")


def _send(path: Path, uri: str, timeout_s: float, *, alone: bool) -> dict[str, object]:
    """Send one spool, with a line every few seconds; its part of the answer.

    Raises `JobError` for what cannot be sent, where it is `alone`; else that is said and left out.
    """
    from adapt.tracking.tracker import deliver_spool

    def say(message: str) -> None:
        console.print(f"{path}: {message}", soft_wrap=True, markup=False, highlight=False)

    try:
        answer = deliver_spool(
            path, uri, max(0.0, timeout_s), lambda sent, left: say(f"{sent} sent, {left} wait")
        )
    except JobError as error:
        if alone:
            raise
        console.print(f"left out: {error}", soft_wrap=True, markup=False, highlight=False)
        return {"left_out": str(error)}
    say(f"{answer.sent} entries sent, {answer.left} remain")
    return answer._asdict()


def _spools_in(place: Place, folder: Path | None) -> list[Path]:
    """The spools in a folder, or in the place's. `JobError` where the named folder is missing."""
    if folder is not None and not folder.is_dir():
        raise JobError(f"{folder}: there is no such spool, and no such folder")
    return sorted((folder or place.scratch_dir / "tracking").glob("*.jsonl"))
