"""The MLflow run of a job: its server, its key, its description, its end."""

import math
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from adapt.checkpoint.lease import LeaseLost
from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import Interrupted
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import DOMAINS
from adapt.tracking.mlflow_database import embedded_folder, embedded_tracking_uri
from adapt.tracking.mlflow_run import JOB_TAG, PARENT_TAG
from adapt.tracking.tracker import Status, Tracker
from adapt.trainer.environment import ENVIRONMENT, environment
from adapt.trainer.lineage import tracked_datasets
from adapt.trainer.opening import Opened, open_run_folder, splits_in_use
from adapt.trainer.resume import Checkpoint
from storage.errors import MissingObject
from storage.uris import join, split_uri

TRACKER_FLUSH_S = 20.0
FINISHED_FLUSH_S = 60.0
EMBEDDED_FLUSH_S = 300.0
"""On a loaded machine MLflow's import and a new database file take minutes."""


def tracking_uri(job: JobSpec, place: Place) -> str:
    """The spec's MLflow server, else the environment's, else a database file beside the
    checkpoints."""
    named = job.tracking.uri or place.tracking_uri
    if named:
        return named
    scheme, rest = split_uri(job.checkpoint.uri)
    return embedded_tracking_uri(Path(rest if scheme == "file" else "runs"))


def job_key(folder: RunFolder) -> str:
    """The job's identity for MLflow, also after a restart: a mark in the run's folder, made where
    there is none."""
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


def open_tracker(
    job: JobSpec,
    place: Place,
    key: str,
    checkpoint: Checkpoint | None = None,
    *,
    begun: bool = True,
) -> Tracker:
    """The tracker of a job's one MLflow run, identified by `key`; a checkpoint adds the run's id
    and the metrics that were not delivered. `begun` as in `end_tracked_run`."""
    kept = checkpoint or {}
    return Tracker(
        job.tracking,
        uri=tracking_uri(job, place),
        run_name=job.name,
        job_key=key,
        spool_dir=place.scratch_dir / "tracking",
        run_id=kept.get("run_id") or None,
        resume_step=None if checkpoint is None else checkpoint["engine"]["step"],
        restored=kept.get("undelivered", ()),
        first_tags={"mlflow.note.content": _description(job), **_parent(job)},
        begun=begun,
    )


@contextmanager
def tracked_run(
    opened: Opened, checkpoint: Checkpoint | None, stop: Event, beat: Callable[[], None]
) -> Iterator[Tracker | None]:
    """The leader's tracker, None elsewhere; ends the run with the status of the context.

    `beat` is called while the end waits for MLflow, and `stop` shortens that.
    """
    if not opened.place.leader:
        yield None
        return
    place = opened.place
    tracker = open_tracker(opened.job, place, job_key(opened.folder), checkpoint)
    _describe(opened, tracker)
    status: Status | None = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    except LeaseLost:  # the run is another job's
        status = None
        raise
    finally:
        error = sys.exception()
        why = None if error is None else f"{type(error).__name__}: {error}"

        def limit_s() -> float:
            beat()
            return _stopped_flush_s(place) if stop.is_set() else math.inf

        tracker.finish(status, _flush_s(opened, status), why, limit_s)


def _flush_s(opened: Opened, status: Status | None) -> float:
    """How long an end waits for MLflow: a stop has a grace, a database file is always there."""
    if status is None:
        return 0.0
    if status != "KILLED" and _is_embedded(opened.job, opened.place):
        return EMBEDDED_FLUSH_S
    return FINISHED_FLUSH_S if status == "FINISHED" else _stopped_flush_s(opened.place)


def _stopped_flush_s(place: Place) -> float:
    return min(TRACKER_FLUSH_S, place.stop_s / 6)


def _is_embedded(job: JobSpec, place: Place) -> bool:
    return embedded_folder(tracking_uri(job, place)) is not None


def end_tracked_run(
    job: JobSpec, place: Place, status: Status, why: str, *, begun: bool = True
) -> None:
    """End the MLflow run of a job whose ranks could not; metrics that MLflow does not receive stay
    for `sync-metrics`.

    A node that does not know the run, since the run's folder is its own, leaves it alone. A start
    that had not `begun` to continue the run leaves one alone that has ended well. Raises
    `StoreError`, `JobError`.
    """
    folder = open_run_folder(job, place)
    key = known_job_key(folder) if place.node else job_key(folder)
    failed_s = EMBEDDED_FLUSH_S if _is_embedded(job, place) else TRACKER_FLUSH_S
    timeout_s = place.grace_s / 6 if status == "KILLED" else failed_s
    if key is not None:
        open_tracker(job, place, key, begun=begun).finish(status, timeout_s, why)


def _parent(job: JobSpec) -> dict[str, str]:
    """The tag by which MLflow lists the run below another."""
    parent = job.tracking.parent_run
    return {} if parent is None else {PARENT_TAG: parent}


def _description(job: JobSpec) -> str:
    """The run in two sentences, as Markdown, for MLflow's page of it."""
    named = (job.datasets(domain).values() for domain in DOMAINS if job.datasets(domain))
    domains = " to ".join(" and ".join(one.dataset for one in datasets) for datasets in named)
    return (
        f"**{job.method.name}** on {job.model.architecture} ({job.model.encoder}): {domains}, "
        f"{job.train.steps} steps. Checkpoints: `{join(job.checkpoint.uri, job.name)}`; "
        "the resolved job spec is the artifact `spec.yaml`."
    )


def _params(job: JobSpec) -> dict[str, Any]:
    """The resolved spec, its lists of datasets as tables by number: a parameter has 500
    characters."""
    params = job.resolved()
    for domain in DOMAINS:
        if isinstance(params[domain], list):
            params[domain] = {str(number): one for number, one in enumerate(params[domain])}
    return params


def _describe(opened: Opened, tracker: Tracker) -> None:
    job, place = opened.job, opened.place
    tracker.log_params(_params(job))
    tracker.log_text(job.to_yaml(), "spec.yaml")
    tracker.log_table(environment(), ENVIRONMENT)
    used = splits_in_use(opened)
    tags = {f"segadapt.{key}": split.dataset_id for key, (split, _) in used.items()}
    tags |= {
        "segadapt.checkpoints": opened.folder.uri,
        "segadapt.platform": place.platform,
        "mlflow.source.name": f"segadapt run {job.name}",
        "mlflow.source.type": "LOCAL" if place.platform == "local" else "JOB",
    }
    if place.job is not None:
        tags[JOB_TAG] = place.job
    tracker.log_tags(tags)
    tracker.log_datasets(tracked_datasets(opened))
