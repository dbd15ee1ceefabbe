"""One run in MLflow: finds it or makes it, and sends it the entries of a spool, kind by kind.

Sending an entry twice does no harm, so a delivery that was cut off is repeated. MLflow is imported
where it is used: that costs seconds, and only the leader's process needs it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from adapt.tracking.mlflow_database import embedded_folder, make_database
from adapt.tracking.spool import Entry
from storage.uris import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

JOB_KEY_TAG = "segadapt.job_key"
JOB_TAG = "segadapt.job"
"""The submitted job that trained last."""
ERROR_TAG = "segadapt.error"
CHANGED_PARAM_TAG = "segadapt.changed_param."
BEST_URI_TAG = "best_checkpoint_uri"
BEST_SHA256_TAG = "best_checkpoint_sha256"
BEST_CHOSEN_BY_TAG = "best_checkpoint_chosen_by"
BEST_ALIAS = "best"

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "INVALID_STATE",
}
"""What MLflow calls a request that it will never take."""


class MlflowRun:
    """The job's run on the server at `uri`. Every method may raise what `failures()` lists.

    start: the spool's `start` entry, which has the run's name and the job's key. run_ids: the runs
    that this job is known to have had, most trusted first. warn: called with what a person should
    know. late: the job has ended, and may have gone on elsewhere: what the run has become since an
    entry was written is left as it is.
    """

    def __init__(
        self,
        experiment: str,
        uri: str,
        start: Entry,
        run_ids: tuple[str | None, ...],
        warn: Callable[[str], None],
        *,
        late: bool = False,
    ) -> None:
        self.run_id: str | None = None
        self._experiment = experiment
        self._uri = uri
        self._start = start
        self._known_run_ids = run_ids
        self._warn = warn
        self._late = late
        self._ended_ms = 0
        self._created = False
        self._params: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._own_client: MlflowClient | None = None

    def send(self, kind: str, entries: list[Entry]) -> None:
        """Send entries of one kind, after `attach`."""
        _SENDERS[kind](self, entries)

    def touch(self) -> None:
        """Ask the server for the run: raises where the server is not well."""
        self._client.get_run(self._id)

    def attach(self, start_time_ms: int) -> str:
        """Find the job's run, or make it; set it to RUNNING. Returns its id."""
        if self.run_id is not None:
            return self.run_id
        experiment_id = self._experiment_id()
        run = self._known_run() or self._tagged_run(experiment_id)
        self._created = run is None
        if run is None:
            run = self._client.create_run(
                experiment_id,
                start_time=start_time_ms,
                tags={JOB_KEY_TAG: self._start["job_key"]},
                run_name=self._start["run_name"],
            )
        elif not self._late:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._ended_ms = run.info.end_time or 0
        self._params = dict(run.data.params)
        self.run_id = str(run.info.run_id)
        return self.run_id

    @property
    def _client(self) -> "MlflowClient":
        """MLflow's client for this URI alone; for a database file it makes the tables."""
        if self._own_client is None:
            from mlflow import MlflowClient

            if embedded_folder(self._uri) is not None:
                make_database(self._uri)
            self._own_client = MlflowClient(tracking_uri=self._uri)
        return self._own_client

    @property
    def _id(self) -> str:
        assert self.run_id is not None, "attached before anything is sent"
        return self.run_id

    def _experiment_id(self) -> str:
        name = self._experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        folder = embedded_folder(self._uri)
        location = None if folder is None else (folder / "mlartifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _known_run(self) -> "Run | None":
        from mlflow.exceptions import MlflowException

        for run_id in self._known_run_ids:
            try:
                run = None if run_id is None else self._client.get_run(run_id)
            except MlflowException as error:
                if code_of(error) not in REFUSALS:
                    raise
                self._warn(f"MLflow does not know the run {run_id} of this job any more")
                continue
            if run is not None and run.info.lifecycle_stage == "active":
                return run
        return None

    def _tagged_run(self, experiment_id: str) -> "Run | None":
        query = f"tags.`{JOB_KEY_TAG}` = '{self._start['job_key']}'"
        found = self._client.search_runs([experiment_id], query, max_results=1)
        return found[0] if found else None

    def _steps_of(self, key: str) -> set[int]:
        """The steps at which the server has this metric; asked once, where the run is not new."""
        if key not in self._steps:
            history = [] if self._created else self._client.get_metric_history(self._id, key)
            self._steps[key] = {point.step for point in history}
        return self._steps[key]

    def _is_past(self, entry: Entry) -> bool:
        """Whether the run has ended since this entry was written, in a later start elsewhere."""
        return self._late and bool(entry["time_ms"] < self._ended_ms)

    def _send_start(self, entries: list[Entry]) -> None:
        if self._is_past(entries[-1]):
            return
        self._client.update_run(self._id, status="RUNNING")
        if ERROR_TAG in self._client.get_run(self._id).data.tags:
            self._client.delete_tag(self._id, ERROR_TAG)
        if entries[-1]["resume_step"] is not None:
            step = str(entries[-1]["resume_step"])
            self._client.set_tag(self._id, "segadapt.resumed_at_step", step)

    def _send_metrics(self, entries: list[Entry]) -> None:
        from mlflow.entities import Metric

        new: dict[tuple[str, int], Any] = {}
        for entry in entries:
            step, time_ms = entry["step"], entry["time_ms"]
            for key, value in entry["values"].items():
                if step not in self._steps_of(key):
                    new.setdefault((key, step), Metric(key, value, time_ms, step))
        for part in _parts(list(new.values()), 1000):
            self._client.log_batch(self._id, metrics=part)
        for key, step in new:
            self._steps[key].add(step)

    def _send_params(self, entries: list[Entry]) -> None:
        from mlflow.entities import Param

        values = {key: value for entry in entries for key, value in entry["values"].items()}
        new = {key: value for key, value in values.items() if key not in self._params}
        for part in _parts([Param(key, value) for key, value in new.items()], 100):
            self._client.log_batch(self._id, params=part)
        self._params |= new
        changed = {key: v for key, v in values.items() if v != self._params[key]}
        self._set_tags({CHANGED_PARAM_TAG + key: value for key, value in changed.items()})

    def _send_tags(self, entries: list[Entry]) -> None:
        values = {key: v for entry in entries for key, v in entry["values"].items()}
        if self._is_past(entries[-1]):
            has = self._client.get_run(self._id).data.tags
            values = {key: value for key, value in values.items() if key not in has}
        self._set_tags(values)

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(key, value) for key, value in tags.items()], 100):
            self._client.log_batch(self._id, tags=part)

    def _send_text(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._client.log_text(self._id, entry["text"], entry["artifact_path"])

    def _send_file(self, entries: list[Entry]) -> None:
        for entry in entries:
            path, folder = Path(entry["file"]), str(PurePosixPath(entry["artifact_path"]).parent)
            if not path.exists():  # sent before a kill that came ahead of the mark
                continue
            self._client.log_artifact(self._id, str(path), None if folder == "." else folder)
            path.unlink()

    def _send_register(self, entries: list[Entry]) -> None:
        """A version of the registered model for the run's best checkpoint, unless it has one."""
        name = entries[0]["name"]
        tags = self._client.get_run(self._id).data.tags
        if BEST_URI_TAG not in tags:
            return
        self._make_registered_model(name)
        versions = self._client.search_model_versions(f"run_id = '{self._id}'")
        if any(v.name == name and v.source == tags[BEST_URI_TAG] for v in versions):
            return
        facts = {key: value for key, value in tags.items() if key.startswith("best_checkpoint_")}
        version = self._client.create_model_version(
            name, tags[BEST_URI_TAG], run_id=self._id, tags=facts, await_creation_for=0
        )
        if self._beats_best(name, facts):
            self._client.set_registered_model_alias(name, BEST_ALIAS, str(version.version))

    def _make_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if code_of(error) != "RESOURCE_ALREADY_EXISTS":
                raise

    def _beats_best(self, name: str, facts: Mapping[str, str]) -> bool:
        """Whether the version called best scored less, or has no such score."""
        aliases = self._client.get_registered_model(name).aliases
        if BEST_ALIAS not in aliases:
            return True
        best = self._client.get_model_version(name, str(aliases[BEST_ALIAS])).tags
        score = f"best_checkpoint_{facts.get(BEST_CHOSEN_BY_TAG)}"
        return score not in best or float(facts[score]) > float(best[score])

    def _send_finish(self, entries: list[Entry]) -> None:
        last = entries[-1]
        if self._is_past(last):
            return
        if last.get("error"):
            self._set_tags({ERROR_TAG: last["error"]})
        self._client.set_terminated(self._id, last["status"], end_time=last["time_ms"])


_SENDERS: dict[str, Callable[[MlflowRun, list[Entry]], None]] = {
    "start": MlflowRun._send_start,
    "metrics": MlflowRun._send_metrics,
    "params": MlflowRun._send_params,
    "tags": MlflowRun._send_tags,
    "text": MlflowRun._send_text,
    "file": MlflowRun._send_file,
    "register": MlflowRun._send_register,
    "finish": MlflowRun._send_finish,
}


def be_brief() -> None:
    """Have MLflow give up within seconds and leave the talking to us; the environment comes first.

    To be called before MLflow is imported.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("urllib3.connectionpool", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def failures() -> tuple[type[Exception], ...]:
    """What MLflow's client raises when a server, a database or an artifact store is not there."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    s3 = (Boto3Error, BotoCoreError, ClientError)
    return (MlflowException, RequestException, SQLAlchemyError, OSError, *s3)


def code_of(error: Exception) -> str:
    """MLflow's name of the failure, also for an artifact upload that HTTP refused."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    by_status = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
    return by_status.get(status) or str(getattr(error, "error_code", "INTERNAL_ERROR"))


def first_line(error: Exception) -> str:
    """What happened, in one line without passwords."""
    lines = without_password(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
