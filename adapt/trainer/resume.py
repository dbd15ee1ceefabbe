"""The checkpoint that a job resumes from: found by the leader, the same on all ranks."""

import logging
from typing import Any

from adapt.checkpoint.run_folder import RunFolder
from adapt.config.strict_yaml import parse_yaml
from adapt.errors import DataError
from adapt.models.weights import STATE, WEIGHTS, check_finite
from adapt.ranks import share_text
from adapt.report.history import History
from adapt.spec.job_spec import JobSpec, parse_spec
from adapt.spec.same_job import check_same_job
from storage.errors import MissingObject

log = logging.getLogger(__name__)

HISTORY_KEY = "history"

Checkpoint = dict[str, Any]
"""A checkpoint's state: engine, streams, step and metrics of the last evaluation, MLflow run, and
metrics that MLflow has not received. `Saves` writes it. On the leader `resume` adds the run's
`history`."""


def resume(folder: RunFolder, job: JobSpec, leader: bool = True) -> Checkpoint | None:
    """The newest valid checkpoint's state, None for a new run; all ranks get the leader's choice.

    Raises `JobError` where it is of another job.
    """
    found = folder.newest_valid() if leader else None
    name = share_text(None if found is None else found[0])
    if name is None:
        return None
    saved = parse_spec(parse_yaml(folder.spec_text(name), f"{folder.store.uri}/{name}"), job.name)
    check_same_job(saved, job, f"{folder.uri}/{name}/{WEIGHTS}")
    if found is not None:
        where = f"{folder.store.uri}/{name}/{STATE}"
        check_finite(found[1]["engine"]["method"], where, "start over with --fresh")
        return {**found[1], HISTORY_KEY: history_of(folder, name)}
    return folder.load(name)


def history_of(folder: RunFolder, name: str) -> History:
    """The history of a checkpoint; an empty one, with a warning, where it is damaged."""
    try:
        return History.parsed(folder.history_text(name))
    except (DataError, MissingObject, ValueError) as error:
        log.warning(
            "%s/%s: its history is damaged, the report's curves begin here: %s",
            folder.store.uri,
            name,
            error,
        )
        return History()
