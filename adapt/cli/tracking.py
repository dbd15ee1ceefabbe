"""Commands about MLflow: sync-metrics, reproduce."""

import time
from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, place_here, stores_of
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
        typer.Option(help="MLflow server; default: the one that each spool's job wrote to."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=1, help="Longest time for all of them, in seconds.")
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Send entries to MLflow that jobs could not deliver before they ended.

    The spool of a job that still runs is skipped: the job delivers it itself. Ends with 3 where
    entries remain in others.
    """
    from adapt.tracking.sync import require_mlflow

    place = place_here()
    spools = [spool] if spool and spool.is_file() else _spools_in(place, spool)
    if spools and tracking_uri is not None:
        require_mlflow(tracking_uri, "--tracking-uri")
    end_s = time.monotonic() + timeout_s
    answers: dict[str, dict[str, object]] = {}
    for path in spools:
        servers = (tracking_uri, place.tracking_uri)
        answers[str(path)] = _send(path, servers, end_s - time.monotonic(), alone=path == spool)
    if as_json:
        print_answer(answers)
    left = {path: answer["tracking_uri"] for path, answer in answers.items() if answer.get("left")}
    if left:
        raise StoreError(
            f"MLflow at {', '.join(sorted(map(str, set(left.values()))))} has not received all of "
            f"{', '.join(left)}",
            "start the server, then run the same command again",
        )
    unsent = [path for path, answer in answers.items() if answer.get("remains")]
    if unsent:
        raise StoreError(
            f"{', '.join(unsent)}: expected entries that can be sent, got the faults above",
            "correct what they name, then run the same command again",
        )
    if not spools:
        console.print("no spool has entries to send")


@commands.command()
def reproduce(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's id or name, a job, an experiment, or a registered model."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI, else ./runs/mlflow.db."),
    ] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Write the exact job spec of a run and the fingerprints of its data, and say what differs
    here: versions, data that changed, weights that are missing.

    Ends with 0 also where something differs: `segadapt run OUT/spec.yaml --set name=NAME` repeats
    the run with what is here.
    """
    from adapt.platforms.records import tracking_uri_of
    from adapt.tracking.mlflow_database import embedded_tracking_uri
    from adapt.trainer.reproduce import reproduce as written

    place = place_here()
    uri = tracking_uri or tracking_uri_of(run, place.environment) or place.tracking_uri
    uri = uri or embedded_tracking_uri(Path("runs"))
    found = written(run, out, uri, place, stores_of(spec) if spec else None)
    if as_json:
        differences = [one._asdict() for one in found.differences]
        print_answer({**found._asdict(), "differences": differences})
        return
    for one in found.differences:
        console.print(f"differs: {one}", soft_wrap=True, markup=False, highlight=False)
    if not found.differences:
        console.print("nothing differs here: versions, data and weights are those of the run")
    print_answer(str(found.spec_path))


def _send(
    path: Path, servers: tuple[str | None, str | None], timeout_s: float, *, alone: bool
) -> dict[str, object]:
    """Send one spool, with a line every few seconds; its part of the answer.

    servers: the one asked for and the environment's, None for none. Raises `JobError` for a spool
    that cannot be sent, where it is `alone`; else skips it with a message. `remains`: its job does
    not run, so nothing else will send it.
    """
    from adapt.tracking.sync import deliver_spool, is_spool, server_of
    from storage.uris import without_password

    def show(message: str) -> None:
        console.print(f"{path}: {message}", soft_wrap=True, markup=False, highlight=False)

    uri = None
    try:
        uri = server_of(path, *servers)
        server = without_password(uri)
        show(f"sending to MLflow at {server}")
        answer = deliver_spool(
            path, uri, max(0.0, timeout_s), lambda sent, left: show(f"{sent} sent, {left} buffered")
        )
    except JobError as error:
        if alone:
            raise
        console.print(f"skipped: {error}", soft_wrap=True, markup=False, highlight=False)
        return {"left_out": str(error), "remains": uri is None and is_spool(path)}
    show(f"{answer.sent} entries sent, {answer.left} remain")
    return {**answer._asdict(), "tracking_uri": server}


def _spools_in(place: Place, folder: Path | None) -> list[Path]:
    """The spools in a folder, or in the place's. Raises `JobError` where the folder is missing."""
    if folder is not None and not folder.is_dir():
        raise JobError(
            f"{folder}: expected a spool or a folder of spools, got neither",
            "give the path that the job's last warning names, or none for the spools of this "
            "machine's jobs",
        )
    return sorted((folder or place.scratch_dir / "tracking").glob("*.jsonl"))
