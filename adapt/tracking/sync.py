"""Sends what ended jobs left in their spools: each spool to the MLflow that its job wrote to."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from adapt.errors import JobError
from adapt.tracking.config import SCHEMES
from adapt.tracking.delivery import Delivery
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_entries import SENDERS
from adapt.tracking.spool import Entry, Spool, parsed
from storage.uris import without_password, without_user


class Sent(NamedTuple):
    """How many entries of a spool went to MLflow, and how many remain in it."""

    sent: int
    left: int


def deliver_spool(
    path: Path,
    uri: str,
    timeout_s: float,
    report: Callable[[int, int], object] | None = None,
) -> Sent:
    """Send the spool of an ended job to MLflow at `uri`; remove it where everything went.

    report: called every few seconds with the numbers of entries that are sent and buffered.
    Raises `JobError` where the file is not a tracker's spool, or where its job is running.
    """
    start = _last_start(path)
    spool = Spool(path, f"run {start['run_name']}")
    delivery = Delivery(spool, start["config"]["experiment"], uri, start, None, late=True)
    delivery.start()
    done = delivery.drain(timeout_s, report)
    spool.close(remove=done)
    return Sent(delivery.delivered, spool.waiting)


def server_of(path: Path, asked: str | None, environment_uri: str | None) -> str:
    """The MLflow that a spool goes to: the one `asked` for, else its job's own, else that of the
    environment, for a spool of an earlier version, which does not name its own.

    A database file is made only where the job would have made it: in its own folder of runs.
    Raises `JobError` where there is none.
    """
    own = _last_start(path).get("uri")
    if asked is None and own is not None:
        require_database(own, or_its_folder=True)
        same = environment_uri is not None and without_user(environment_uri) == own
        return str(environment_uri if same else own)
    uri = asked or environment_uri
    if uri is None:
        raise JobError(
            f"{path}: expected a spool that names the MLflow server of its job, got none",
            "name it with --tracking-uri, or set MLFLOW_TRACKING_URI",
        )
    require_mlflow(uri, "MLFLOW_TRACKING_URI" if asked is None else "--tracking-uri")
    return uri


def require_mlflow(uri: str, key: str) -> None:
    """Raise `JobError` naming `key` where a URI cannot be MLflow's, or its database file is not
    there. A server is not asked: MLflow's client takes a bare name for one and keeps retrying.
    """
    scheme = re.match(r"([a-z]+)(?:\+[a-z0-9]+)?://.|(arn):|(databricks)$", uri, re.IGNORECASE)
    known = scheme and next(filter(None, scheme.groups())).lower() in SCHEMES
    if not known or re.match(r"sqlite://(?!/)", uri, re.IGNORECASE):
        shown, file = without_password(uri), without_password(uri).rpartition("://")[2]
        raise JobError(
            f"{key}: expected a URI of {', '.join(SCHEMES)}, got {shown!r}",
            f"write sqlite:///{file} for a database file, http://HOST:PORT for a server",
        )
    require_database(uri)


def is_spool(path: Path) -> bool:
    """Return whether a file starts as the spools of trackers do; true for one that cannot be
    read."""
    try:
        return _is_start(parsed(next(_lines_of(path), b"")))
    except JobError:
        return True


def _lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file. Raises `JobError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise JobError(
            f"{path}: expected a spool that can be read, got: {error.strerror}",
            "check the path and the rights of this user on it",
        ) from error


def _last_start(path: Path) -> Entry:
    """The entry of the last start of the spool's job. Raises `JobError` where a line is none that
    this version writes or reads."""
    start: Entry | None = None
    for number, line in enumerate(_lines_of(path) if path.is_file() else ()):
        entry = parsed(line)
        if number == 0 and not _is_start(entry):
            break
        if _is_start(entry):
            start = entry
        elif entry is not None and entry.get("kind") not in SENDERS:
            raise JobError(
                f"{path}: expected entries of this version, got {entry.get('kind')!r}",
                "send it with the version of SegAdapt that wrote it",
            )
    if start is None:
        raise JobError(f"{path}: expected a spool (*.jsonl) of a job's tracker, got another file")
    return start


def _is_start(entry: Entry | None) -> bool:
    return (
        entry is not None
        and entry.get("kind") == "start"
        and isinstance(entry.get("config"), dict)
        and {"experiment"} <= entry["config"].keys()
        and {"job_key", "run_name", "resume_step", "time_ms"} <= entry.keys()
    )
