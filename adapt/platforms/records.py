"""The jobs that this machine submitted: one JSON line each, so that `status JOB` needs no profile.

A record has no secret: profiles only name those. Jobs of other machines are reached with `--to`.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapt.errors import JobError, known_names

if TYPE_CHECKING:
    from adapt.platforms.platform import Profile


class SubmittedJob(NamedTuple):
    """A submitted job: `job` is the platform's name of it, `name` ours, `run` MLflow's."""

    job: str
    name: str
    run: str
    platform: str
    profile: dict[str, Any]
    tracking_uri: str | None
    submitted: str


def records_path(environment: Mapping[str, str]) -> Path:
    """Where records are kept: below XDG_STATE_HOME, by default `~/.local/state`."""
    state = environment.get("XDG_STATE_HOME")
    home = Path(environment.get("HOME") or Path.home())
    return (Path(state) if state else home / ".local/state") / "segadapt" / "jobs.jsonl"


def record_job(
    environment: Mapping[str, str],
    job: str,
    name: str,
    run: str,
    profile: "Profile",
    tracking_uri: str | None = None,
) -> None:
    """Record a job that the platform of `profile` has taken now; names as in `SubmittedJob`. Raises
    `JobError` where the file cannot be written."""
    plain = profile.model_dump(mode="json")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    record = SubmittedJob(job, name, run, profile.platform, plain, tracking_uri, now)
    _add(records_path(environment), record)


def _add(path: Path, record: SubmittedJob) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise JobError(
            f"{error.filename or path}: the job {record.job} runs, but cannot be recorded here: "
            f"{error.strerror}",
            "reach it with --to, or set XDG_STATE_HOME",
        ) from error


def read_records(path: Path) -> list[SubmittedJob]:
    """All records, the newest first. Raises `JobError` where the file is damaged."""
    if not path.exists():
        return []
    try:
        return [SubmittedJob(*json.loads(line)) for line in path.read_text().splitlines()[::-1]]
    except (ValueError, TypeError) as error:
        raise JobError(
            f"{path}: expected the record of a job, got a damaged one: {error}",
            "delete it, then use --to",
        ) from error


def find_record(path: Path, job: str) -> SubmittedJob:
    """The record of a job by the platform's name or ours. Raises `JobError`."""
    records = read_records(path)
    for record in records:
        if job in (record.job, record.name):
            return record
    names = [record.name for record in records]
    raise JobError(
        f"JOB: expected a job that was submitted from here, {known_names(job, names)}", "use --to"
    )


def tracking_uri_of(job: str, environment: Mapping[str, str]) -> str | None:
    """The MLflow server of a job that was submitted from here; None for anything else."""
    for record in read_records(records_path(environment)):
        if job in (record.job, record.name):
            return record.tracking_uri
    return None
