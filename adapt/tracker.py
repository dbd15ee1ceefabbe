"""The tracker: what a job tells MLflow, without ever waiting for it or dying of it.

Every call appends one JSON line to a spool file and returns; one background thread sends the spool
in order from its first undelivered byte. The spool itself is the queue: it survives a kill, the
thread holds at most one chunk of it in memory, and nothing is dropped to make room. Parameters come
from the resolved job spec, which names environment variables instead of secrets, so nothing is
masked here. The thread imports MLflow: that costs seconds, and only the leader's process needs it.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from pydantic import Field, field_validator

from adapt.errors import JobError
from adapt.section import Section

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
Entry = dict[str, Any]

JOB_KEY_TAG = "segadapt.job_key"
CHANGED_PARAM_TAG = "segadapt.changed_param."
BEST_URI_TAG = "best_checkpoint_uri"
BEST_SHA256_TAG = "best_checkpoint_sha256"
BEST_CHOSEN_BY_TAG = "best_checkpoint_chosen_by"
BEST_ALIAS = "best"

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "arn")
_MAX_VALUE_CHARS = 6000
_CHUNK_BYTES = 1 << 20
_LINGER_S = 0.5
_BACKOFF_S = (1.0, 30.0)
_MAX_STRIKES = 5
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_CLOSED_DOOR = {
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "ENDPOINT_NOT_FOUND",
}
_REFUSAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "INVALID_STATE",
}
_CURES = (
    (
        "Invalid Host header",
        "the server does not know the host name that the job uses: start it with "
        "`mlflow server --allowed-hosts HOST:PORT` (or MLFLOW_SERVER_ALLOWED_HOSTS), written "
        "exactly as in the tracking URI",
    ),
    (
        "UNAUTHENTICATED|CUSTOMER_UNAUTHORIZED",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in "
        "the job's environment",
    ),
    ("PERMISSION_DENIED", "give the job's MLflow user the right to edit the experiment"),
    ("ENDPOINT_NOT_FOUND", "check the path of the URI: no MLflow server answers there"),
    (
        "must be in (the )?'?active'?",
        "the experiment was deleted: restore it with `mlflow experiments restore`, or choose "
        "another tracking.experiment",
    ),
    (r"^INTERNAL_ERROR \[Errno|readonly database", "see that the database's folder can be written"),
    ("", "see that the server is up and can be reached from the job"),
)


class TrackingConfig(Section):
    """Where the job's figures go."""

    experiment: str = Field("segadapt", min_length=1, description="MLflow experiment of the run.")
    uri: str | None = Field(
        None,
        description="MLflow tracking URI; null: MLFLOW_TRACKING_URI, else an embedded sqlite file. "
        "Passwords belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
        "MLFLOW_TRACKING_TOKEN).",
    )
    register_as: str | None = Field(
        None,
        min_length=1,
        description="Registered model that gets a version for the best checkpoint; null: none.",
    )
    spool_dir: Path | None = Field(
        None,
        description="Folder for what MLflow has not received yet; null: the job's scratch folder.",
    )

    @field_validator("uri")
    @classmethod
    def _is_known_and_without_password(cls, uri: str | None) -> str | None:
        if uri is None:
            return uri
        if without_password(uri) != uri:
            raise ValueError(
                "expected a URI without user and password; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the job's environment instead"
            )
        if re.split(r"[:+]", uri)[0] not in _SCHEMES:
            raise ValueError(f"expected a URI of {', '.join(_SCHEMES)}; found {uri!r}")
        return uri


def without_password(text: str) -> str:
    """The text with the `user:password@` of every URI in it replaced by `***@`."""
    return re.sub(r"://[^/@\s'\"]+@", "://***@", text)


class Spool:
    """An append-only file of JSON lines, and beside it how far they are delivered (`*.delivered`).

    `append` may be called from any thread, the rest belongs to the delivering one. A line that a
    kill or a full disk cut short is skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files_dir = path.with_suffix(".files")
        self._mark_path = path.with_suffix(".delivered")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size_bytes = os.fstat(self._file).st_size
        self._torn = size_bytes > 0 and os.pread(self._file, 1, size_bytes - 1) != b"\n"
        self._lock = threading.Lock()
        self._warned = False
        self.offset, self.run_id = self._read_mark(size_bytes)
        self.waiting = sum(1 for _ in self.read(limit_bytes=size_bytes))

    def _read_mark(self, size_bytes: int) -> tuple[int, str | None]:
        try:
            mark = json.loads(self._mark_path.read_text())
            offset, run_id = int(mark["offset"]), mark["run_id"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, None
        return (offset if offset <= size_bytes else 0), run_id

    def append(self, entry: Entry) -> None:
        """Write one line; where the disk refuses, the entry is lost, with one warning."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            try:
                line = b"\n" + line if self._torn else line
                self._torn = os.write(self._file, line) != len(line)
                self.waiting += not self._torn
            except OSError as error:
                self._warn(error)

    def keep(self, artifact_path: str, write: Callable[[Path], object]) -> Path | None:
        """A file with the artifact's name in a folder of its own; None where the disk is full."""
        path = self.files_dir / str(time.time_ns()) / PurePosixPath(artifact_path).name
        try:
            path.parent.mkdir(parents=True)
            write(path)
        except OSError as error:
            self._warn(error)
            return None
        return path

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning("%s cannot be written (%s); figures for MLflow are lost", self.path, error)
        self._warned = True

    def read(self, limit_bytes: int = _CHUNK_BYTES) -> Iterator[tuple[Entry, int]]:
        """Undelivered entries, each with the offset behind it, in order, until `limit_bytes`."""
        offset = first = self.offset
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                entry = _parsed(line)
                if entry is not None:
                    yield entry, offset
                if offset - first >= limit_bytes:
                    return

    def mark(self, offset: int, entries: int) -> None:
        """Remember that everything before `offset`, `entries` more than so far, is delivered."""
        self.offset = offset
        with self._lock:
            self.waiting = max(0, self.waiting - entries)
        new = self._mark_path.with_suffix(".new")
        try:
            new.write_text(json.dumps({"offset": offset, "run_id": self.run_id}))
            new.replace(self._mark_path)
        except OSError as error:
            self._warn(error)

    def close(self, *, remove: bool) -> None:
        """Close the file; with `remove`, also delete it and what stands beside it."""
        with self._lock:
            os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)
            self._mark_path.unlink(missing_ok=True)
            shutil.rmtree(self.files_dir, ignore_errors=True)


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


class Delivery(threading.Thread):
    """The one thread that talks to MLflow: it sends the spool in order, and tries until it is told
    to stop. What the server refuses for good is skipped with a warning."""

    def __init__(
        self, spool: Spool, config: TrackingConfig, uri: str, start: Entry, run_id: str | None
    ) -> None:
        super().__init__(name="tracker", daemon=True)
        self.run_id: str | None = None
        self.delivered = 0
        self.wake = threading.Event()
        self._spool = spool
        self._config = config
        self._uri = uri
        self._begin = start
        self._named_run_id = run_id
        self._hurry = threading.Event()
        self._deadline_s: float | None = None
        self._strikes = 0
        self._warned: set[str] = set()
        self._created = False
        self._params: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._own_client: MlflowClient | None = None

    def drain(self, timeout_s: float) -> bool:
        """Send what waits for at most `timeout_s`, then stop. Says whether everything went."""
        self._deadline_s = time.monotonic() + timeout_s
        self.wake.set()
        self._hurry.set()
        self.join(timeout_s)
        if self._spool.waiting:
            log.warning(
                "MLflow at %s has not received %d entries; they stay in %s: start the job again "
                "with this folder, or send them with adapt.tracker.deliver_spool",
                without_password(self._uri),
                self._spool.waiting,
                self._spool.path,
            )
        return not self._spool.waiting

    def run(self) -> None:
        """Send what waits, as it comes; after `drain`, until nothing waits or time is up."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        failures = _failures()
        backoff_s = _BACKOFF_S[0]
        while not self._over():
            try:
                self._send_waiting(failures)
                backoff_s = _BACKOFF_S[0]
                self._wait_for_more()
            except failures as error:
                self._explain(error)
                self._back_off(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_S[1])

    def _over(self) -> bool:
        if self._deadline_s is None:
            return False
        return not self._spool.waiting or time.monotonic() > self._deadline_s

    def _wait_for_more(self) -> None:
        if self._deadline_s is None:
            self.wake.wait()
            self.wake.clear()
            self._hurry.wait(_LINGER_S)

    def _back_off(self, pause_s: float) -> None:
        if self._deadline_s is None:
            self._hurry.wait(pause_s)
        else:
            time.sleep(max(0.0, min(_BACKOFF_S[0], self._deadline_s - time.monotonic())))

    def _send_waiting(self, failures: tuple[type[Exception], ...]) -> None:
        while not self._over():
            chunk = list(self._spool.read())
            if not chunk:
                return
            self._attach(chunk[0][0])
            for kind, group in groupby(chunk, key=lambda item: item[0]["kind"]):
                self._send(kind, list(group), failures)

    def _send(
        self, kind: str, group: Sequence[tuple[Entry, int]], failures: tuple[type[Exception], ...]
    ) -> None:
        """Send entries of one kind; where several are refused together, one by one."""
        try:
            _SENDERS[kind](self, [entry for entry, _ in group])
        except failures as error:
            if not self._is_hopeless(error, failures):
                raise
            if len(group) > 1:
                for item in group:
                    self._send(kind, [item], failures)
                return
            self._warn(f"MLflow refuses {kind}; left out: {_first_line(error)}")
            self.delivered -= len(group)
        self._strikes = 0
        self.delivered += len(group)
        self._spool.mark(group[-1][1], len(group))
        if self._warned and "outage" in self._warned:
            self._warned.clear()
            log.info("MLflow at %s answers again", without_password(self._uri))

    def _is_hopeless(self, error: Exception, failures: tuple[type[Exception], ...]) -> bool:
        """Refused by its content, or failed time and again while the server answers other calls."""
        code = _code(error)
        if code in _REFUSAL or code in _CLOSED_DOOR:
            return code in _REFUSAL
        try:
            self._client.get_run(self._id)
        except failures:
            return False
        self._strikes += 1
        return self._strikes >= _MAX_STRIKES

    def _explain(self, error: Exception) -> None:
        """One warning, with the cure, for each kind of outage."""
        text = f"{_code(error)} {error}"
        cure = next(cure for sign, cure in _CURES if re.search(sign, text))
        message = (
            f"MLflow at {without_password(self._uri)} takes nothing now; training goes on, figures "
            f"wait in {self._spool.path}. To mend it: {cure} [{_first_line(error)}]"
        )
        self._warn(message, once=cure)
        self._warned.add("outage")

    def _warn(self, message: str, once: str | None = None) -> None:
        if (once or message) not in self._warned:
            log.warning("%s", message)
        self._warned.add(once or message)

    @property
    def _client(self) -> "MlflowClient":
        """MLflow's client for this URI alone; for a database file it makes the tables."""
        if self._own_client is None:
            from mlflow import MlflowClient

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            if (folder := _embedded_folder(self._uri)) is not None:
                folder.mkdir(parents=True, exist_ok=True)
                _database_file(self._uri).open("ab").close()  # MLflow tries for half a minute
            self._own_client = MlflowClient(tracking_uri=self._uri)
        return self._own_client

    @property
    def _id(self) -> str:
        assert self.run_id is not None, "attached before anything is sent"
        return self.run_id

    def _attach(self, first: Entry) -> None:
        """Find the job's run, or make it; set it to RUNNING."""
        if self.run_id is not None:
            return
        experiment_id = self._experiment_id()
        run = self._known_run() or self._tagged_run(experiment_id)
        self._created = run is None
        if run is None:
            run = self._client.create_run(
                experiment_id,
                start_time=first["time_ms"],
                tags={JOB_KEY_TAG: self._begin["job_key"]},
                run_name=self._begin["run_name"],
            )
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._params = dict(run.data.params)
        self._spool.run_id = run.info.run_id
        self.run_id = run.info.run_id

    def _experiment_id(self) -> str:
        name = self._config.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        folder = _embedded_folder(self._uri)
        location = None if folder is None else (folder / "mlartifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _known_run(self) -> "Run | None":
        from mlflow.exceptions import MlflowException

        for run_id in (self._named_run_id, self._spool.run_id):
            try:
                run = None if run_id is None else self._client.get_run(run_id)
            except MlflowException as error:
                if _code(error) not in _REFUSAL:
                    raise
                self._warn(f"MLflow does not know the run {run_id} of this job any more")
                continue
            if run is not None and run.info.lifecycle_stage == "active":
                return run
        return None

    def _tagged_run(self, experiment_id: str) -> "Run | None":
        query = f"tags.`{JOB_KEY_TAG}` = '{self._begin['job_key']}'"
        found = self._client.search_runs([experiment_id], query, max_results=1)
        return found[0] if found else None

    def _steps_of(self, key: str) -> set[int]:
        """The steps at which the server has this metric; asked once, where the run is not new."""
        if key not in self._steps:
            history = [] if self._created else self._client.get_metric_history(self._id, key)
            self._steps[key] = {point.step for point in history}
        return self._steps[key]

    def _send_start(self, entries: list[Entry]) -> None:
        self._client.update_run(self._id, status="RUNNING")
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
        self._set_tags({key: v for entry in entries for key, v in entry["values"].items()})

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
            if _code(error) != "RESOURCE_ALREADY_EXISTS":
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
        self._client.set_terminated(self._id, last["status"], end_time=last["time_ms"])


_SENDERS: dict[str, Callable[[Delivery, list[Entry]], None]] = {
    "start": Delivery._send_start,
    "metrics": Delivery._send_metrics,
    "params": Delivery._send_params,
    "tags": Delivery._send_tags,
    "text": Delivery._send_text,
    "file": Delivery._send_file,
    "register": Delivery._send_register,
    "finish": Delivery._send_finish,
}


def _failures() -> tuple[type[Exception], ...]:
    """What MLflow's client raises when a server, a database or an artifact store is not there."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    s3 = (Boto3Error, BotoCoreError, ClientError)
    return (MlflowException, RequestException, SQLAlchemyError, OSError, *s3)


def _code(error: Exception) -> str:
    """MLflow's name of the failure, also for an artifact upload that HTTP refused."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    by_status = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
    return by_status.get(status) or str(getattr(error, "error_code", "INTERNAL_ERROR"))


def _first_line(error: Exception) -> str:
    lines = without_password(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _embedded_folder(uri: str) -> Path | None:
    """The folder of a database file's URI; None for a server."""
    return _database_file(uri).parent if uri.startswith("sqlite:///") else None


def _database_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).resolve()


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


class Tracker:
    """A job's one run in MLflow, also after a restart. No method waits, except `finish`.

    A metric has one value a step: of several for the same (key, step), as after a resume from an
    older checkpoint, the first that reached the server stays. Names lose what MLflow does not
    allow in them (`_` in its place).
    """

    def __init__(
        self,
        config: TrackingConfig,
        *,
        uri: str,
        run_name: str,
        job_key: str,
        spool_dir: Path,
        run_id: str | None = None,
        resume_step: int | None = None,
    ) -> None:
        """Open the job's spool in `config.spool_dir`, else `spool_dir`, and begin to deliver it.

        uri: the resolved tracking URI. job_key: what identifies the job over its restarts.
        run_id: the run named by the checkpoint that training goes on from, at `resume_step`.
        Raises `JobError` where the folder cannot be written.
        """
        folder = config.spool_dir or spool_dir
        name = f"{re.sub(r'[^A-Za-z0-9-]', '_', job_key)[:60]}-{_digest(job_key)}.jsonl"
        try:
            self._spool = Spool(folder / name)
        except OSError as error:
            raise JobError(f"tracking.spool_dir: {folder} cannot be written: {error}") from error
        self._config = config
        start = {
            "config": config.model_dump(mode="json", exclude={"uri", "spool_dir"}),
            "run_name": run_name,
            "job_key": re.sub(r"['`\"]", "_", job_key),
            "resume_step": resume_step,
        }
        self._delivery = Delivery(self._spool, config, uri, start, run_id)
        self._append("start", **start)
        self._delivery.start()

    @property
    def run_id(self) -> str | None:
        """The run's id; None while the server has not been reached."""
        return self._delivery.run_id

    @property
    def delivered(self) -> int:
        """How many entries this tracker has sent (one for each call, and its start)."""
        return self._delivery.delivered

    @property
    def pending(self) -> int:
        """How many entries wait in the spool, those of earlier starts included."""
        return self._spool.waiting

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The job's parameters; nested mappings become `a.b`. MLflow never changes a parameter: a
        value that differs from the first becomes the tag `segadapt.changed_param.NAME`.
        """
        self._append("params", values=self._short(dict(_flat(params)), "params"))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures of one step."""
        values = {_legal(key): float(value) for key, value in metrics.items()}
        self._append("metrics", values=values, step=step)

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Facts of the run; a later value replaces an earlier one."""
        self._append("tags", values=self._short(tags, "tags"))

    def log_text(self, text: str, artifact_path: str) -> None:
        """A text file among the run's artifacts."""
        self._append("text", text=text, artifact_path=_relative(artifact_path))

    def log_table(self, table: object, artifact_path: str) -> None:
        """A JSON file among the run's artifacts."""
        self.log_text(json.dumps(table, indent=2), artifact_path)

    def log_image(self, image: Image.Image | Path, artifact_path: str) -> None:
        """A picture, or a copy of its file. The caller waits for its encoding, not for MLflow."""
        artifact_path = _relative(artifact_path)
        if isinstance(image, Image.Image):
            path = self._spool.keep(artifact_path, image.save)
        else:
            path = self._spool.keep(artifact_path, lambda path: shutil.copyfile(image, path))
        if path is not None:
            self._append("file", file=str(path), artifact_path=artifact_path)

    def register_best(self, uri: str, sha256: str, metrics: Mapping[str, float]) -> None:
        """Name the best checkpoint so far, in tags of the run.

        metrics: its scores; the first is the one it was chosen by, greater is better. With
        `register_as`, `finish("FINISHED")` makes a model version of it, which gets the alias
        `best` where no version scored more.
        """
        tags: dict[str, object] = {BEST_URI_TAG: uri, BEST_SHA256_TAG: sha256}
        tags[BEST_CHOSEN_BY_TAG] = next(iter(metrics), None)
        self.log_tags(tags | {f"best_checkpoint_{k}": float(v) for k, v in metrics.items()})

    def finish(self, status: Status, timeout_s: float) -> bool:
        """End the run; wait at most `timeout_s` for the delivery. Nothing may be logged after it.

        True where MLflow has everything; the spool is then removed. False where it stays, with a
        warning that names it.
        """
        if status == "FINISHED" and self._config.register_as is not None:
            self._append("register", name=self._config.register_as)
        self._append("finish", status=status)
        done = self._delivery.drain(timeout_s)
        self._spool.close(remove=done)
        return done

    def _append(self, kind: str, **content: object) -> None:
        self._spool.append({"kind": kind, "time_ms": int(time.time() * 1000), **content})
        self._delivery.wake.set()

    def _short(self, values: Mapping[str, object], folder: str) -> dict[str, str]:
        """Values as text; what is too long for MLflow goes to an artifact, its name stays."""
        texts = {_legal(key): str(value) for key, value in values.items()}
        for key, text in texts.items():
            if len(text) > _MAX_VALUE_CHARS:
                texts[key] = f"see artifact {folder}/{key}.txt"
                self.log_text(text, f"{folder}/{key}.txt")
        return texts


def deliver_spool(path: Path, uri: str, timeout_s: float) -> bool:
    """Send a spool that a job left behind to MLflow at `uri`; remove it where everything went.

    Raises `JobError` where the file is not a tracker's spool.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    start = _parsed(lines[0]) if lines else None
    if start is None or start.get("kind") != "start":
        raise JobError(f"{path}: expected a spool (*.jsonl) that a job's tracker left behind")
    spool = Spool(path)
    config = TrackingConfig.model_validate(start["config"])
    delivery = Delivery(spool, config, uri, start, None)
    delivery.start()
    done = delivery.drain(timeout_s)
    spool.close(remove=done)
    return done


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _legal(name: str) -> str:
    """The name with what MLflow refuses in names replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:240]


def _relative(artifact_path: str) -> str:
    parts = PurePosixPath(artifact_path).parts
    assert parts and parts[0] != "/" and ".." not in parts, artifact_path
    return artifact_path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
