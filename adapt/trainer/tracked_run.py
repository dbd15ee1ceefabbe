"""The MLflow run of a job: where it is, which key names it, what describes it."""

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import Interrupted
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.tracking.mlflow_run import JOB_TAG
from adapt.tracking.tracker import Status, Tracker
from adapt.trainer.opening import JobData
from storage.errors import MissingObject
from storage.uris import split_uri

TRACKER_FLUSH_S = 20.0


def tracking_uri(job: JobSpec, place: Place) -> str:
    """The spec's MLflow server, else the environment's, else a database file beside the
    checkpoints."""
    named = job.tracking.uri or place.tracking_uri
    if named:
        return named
    scheme, rest = split_uri(job.checkpoint.uri)
    return embedded_tracking_uri(Path(rest if scheme == "file" else "runs"))


def job_key(folder: RunFolder) -> str:
    """What identifies the job for MLflow, also after a restart: a mark in the run's folder, made
    where there is none."""
    key = known_job_key(folder)
    if key is None:
        key = uuid.uuid4().hex
        folder.store.put("JOB", key.encode())
    return key


def known_job_key(folder: RunFolder) -> str | None:
    """The mark in the run's folder, if there is one."""
    try:
        return folder.store.get("JOB").decode()
    except MissingObject:
        return None


@contextmanager
def _tracking(
    job: JobSpec, place: Place, folder: RunFolder, data: JobData, state: dict[str, Any] | None
) -> Iterator[Tracker | None]:
    """The leader's tracker, ended with the status of what happened inside."""
    if not place.leader:
        yield None
        return
    tracker = Tracker(
        job.tracking,
        uri=tracking_uri(job, place),
        run_name=job.name,
        job_key=job_key(folder),
        spool_dir=place.scratch_dir / "tracking",
        run_id=(state or {}).get("run_id") or None,
        resume_step=None if state is None else state["engine"]["step"],
        restored=(state or {}).get("undelivered", ()),
    )
    _describe(job, place, folder, data, tracker)
    status: Status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        error = sys.exception()
        why = None if error is None else f"{type(error).__name__}: {error}"
        tracker.finish(status, min(TRACKER_FLUSH_S, place.grace_s / 6), why)


def _describe(
    job: JobSpec, place: Place, folder: RunFolder, data: JobData, tracker: Tracker
) -> None:
    tracker.log_params(job.resolved())
    tracker.log_text(job.to_yaml(), "spec.yaml")
    tags = {
        "segadapt.checkpoints": folder.uri,
        "segadapt.source": data.source.manifest.dataset_id,
        "segadapt.platform": place.platform,
    }
    if place.job is not None:
        tags[JOB_TAG] = place.job
    if data.target is not None:
        tags["segadapt.target"] = data.target.manifest.dataset_id
    if data.validation is not None:
        tags["segadapt.validation"] = data.validation.manifest.dataset_id
    tracker.log_tags(tags)
