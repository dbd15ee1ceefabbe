"""The checkpoint that a job resumes from: found by the leader, the same on all ranks."""

from typing import Any

from adapt.checkpoint.run_folder import RunFolder
from adapt.config.strict_yaml import parse_yaml
from adapt.models.weights import STATE, WEIGHTS, check_finite
from adapt.ranks import share_text
from adapt.spec.job_spec import JobSpec, parse_spec
from adapt.spec.same_job import check_same_job

Checkpoint = dict[str, Any]
"""A checkpoint's state: engine, streams, step and metrics of the last evaluation, MLflow run, and
metrics that MLflow has not received. `Saves` writes it."""


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
    return found[1] if found is not None else folder.load(name)
