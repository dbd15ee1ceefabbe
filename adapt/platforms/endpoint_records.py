"""The endpoints that this machine deployed: one JSON line each, until they are removed, so that
`undeploy NAME` needs no profile. A record has no secret."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adapt.errors import JobError, known_names
from adapt.platforms.records import records_path


class DeployedEndpoint(NamedTuple):
    """A deployed endpoint: its name, what it serves, and where."""

    endpoint: str
    model: str
    platform: str
    profile: dict[str, Any]
    deployed: str


def endpoints_path(environment: Mapping[str, str]) -> Path:
    """Where records are kept, beside those of jobs."""
    return records_path(environment).with_name("endpoints.jsonl")


def read_endpoints(path: Path) -> list[DeployedEndpoint]:
    """All records, the newest first. Raises `JobError` where the file is damaged."""
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines()
        return [DeployedEndpoint(*json.loads(line)) for line in lines[::-1]]
    except (ValueError, TypeError) as error:
        raise JobError(
            f"{path}: expected the record of an endpoint, got a damaged one: {error}",
            "delete it, then use --to",
        ) from error


def record_endpoint(path: Path, record: DeployedEndpoint) -> None:
    """Append a record in place of an older one of its name and profile. Raises `JobError`."""
    _write(path, [record, *_others(path, record)])


def forget_endpoint(path: Path, record: DeployedEndpoint) -> None:
    """Remove a record. Raises `JobError`."""
    _write(path, _others(path, record))


def find_endpoint(path: Path, name: str) -> DeployedEndpoint:
    """The newest record of a name. Raises `JobError`."""
    records = read_endpoints(path)
    for record in records:
        if record.endpoint == name:
            return record
    raise JobError(
        "NAME: expected an endpoint that was deployed from here, "
        f"{known_names(name, [record.endpoint for record in records])}",
        "use --to",
    )


def _others(path: Path, record: DeployedEndpoint) -> list[DeployedEndpoint]:
    same = (record.endpoint, record.profile)
    return [one for one in read_endpoints(path) if (one.endpoint, one.profile) != same]


def _write(path: Path, newest_first: list[DeployedEndpoint]) -> None:
    lines = "".join(json.dumps(one) + "\n" for one in newest_first[::-1])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(lines)
        draft.replace(path)
    except OSError as error:
        raise JobError(
            f"{error.filename or path}: the endpoints that were deployed from here cannot be "
            f"recorded: {error.strerror}",
            "reach them with --to, or set XDG_STATE_HOME",
        ) from error
