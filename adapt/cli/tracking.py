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
            help="A spool (*.jsonl) or a folder of them; default: that of this machine's jobs.",
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
    """Send entries to MLflow that jobs could not deliver before they ended.

    The spool of a job that still runs is skipped: the job delivers it itself. Ends with 3 where
    entries remain.
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
            f"MLflow at {without_password(uri)} has not received all of {', '.join(left)}",
            "start the server, then run the same command again",
        )
    if not spools:
        console.print("no spool has entries to send")


def _send(path: Path, uri: str, timeout_s: float, *, alone: bool) -> dict[str, object]:
    """Send one spool, with a line every few seconds; its part of the answer.

    Raises `JobError` for a spool that cannot be sent, where it is `alone`; else skips it with a
    message.
    """
    from adapt.tracking.tracker import deliver_spool

    def show(message: str) -> None:
        console.print(f"{path}: {message}", soft_wrap=True, markup=False, highlight=False)

    try:
        answer = deliver_spool(
            path, uri, max(0.0, timeout_s), lambda sent, left: show(f"{sent} sent, {left} buffered")
        )
    except JobError as error:
        if alone:
            raise
        console.print(f"skipped: {error}", soft_wrap=True, markup=False, highlight=False)
        return {"left_out": str(error)}
    show(f"{answer.sent} entries sent, {answer.left} remain")
    return answer._asdict()


def _spools_in(place: Place, folder: Path | None) -> list[Path]:
    """The spools in a folder, or in the place's. Raises `JobError` where the folder is missing."""
    if folder is not None and not folder.is_dir():
        raise JobError(f"{folder}: expected a spool or a folder of spools, got neither")
    return sorted((folder or place.scratch_dir / "tracking").glob("*.jsonl"))
