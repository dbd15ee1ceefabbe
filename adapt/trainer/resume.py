"""The checkpoint that a job resumes from: found by the leader, the same on all ranks."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.shards import SHARDS, Make, marked, read_files
from adapt.config.strict_yaml import parse_yaml
from adapt.errors import DataError
from adapt.models.weights import STATE, WEIGHTS, check_finite
from adapt.ranks import local_part, share_text
from adapt.report.history import History
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from adapt.spec.same_job import check_same_job
from storage.errors import MissingObject

log = logging.getLogger(__name__)

HISTORY_KEY, NAME_KEY = "history", "name"

Checkpoint = dict[str, Any]
"""A checkpoint's state: engine, streams, step and metrics of the last evaluation, MLflow run, and
metrics that MLflow has not received. `Saves` writes it. `resume` adds its folder's `name` and, on
the leader, the run's `history`."""


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
        method = found[1]["engine"]["method"]
        whole = {key: value for key, value in method.items() if isinstance(value, Tensor)}
        check_finite(whole, where, "start over with --fresh")
        return {**found[1], NAME_KEY: name, HISTORY_KEY: history_of(folder, name)}
    return {**folder.load(name), NAME_KEY: name}


def engine_state(folder: RunFolder, state: Checkpoint, make: Make) -> dict[str, Any]:
    """The engine's part of a checkpoint's state, with the tensors that ranks hold in parts, for
    which there are such as `make` makes. All ranks call it.

    Raises `DataError` where the shards are damaged, `JobError` where they are no numbers.
    """
    engine: dict[str, Any] = state["engine"]
    if not marked(engine):
        return engine
    with tempfile.TemporaryDirectory(prefix="segadapt-resume-") as path:
        folder.fetch_shards(state[NAME_KEY], Path(path))
        engine = read_files(Path(path) / SHARDS, engine, make)
    method = {key: local_part(value) for key, value in engine["method"].items()}
    where = f"{folder.store.uri}/{state[NAME_KEY]}/{SHARDS}"
    check_finite(method, where, "start over with --fresh")
    return engine


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
