"""The tracker: logs a job to MLflow, without ever waiting for it or failing with it.

Every call appends one JSON line to a spool and returns; a thread of its own delivers the spool
(`adapt/tracking/delivery.py`). Parameters come from the resolved job spec, which names environment
variables instead of secrets, so nothing is masked here.
"""

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from PIL import Image

from adapt.errors import JobError
from adapt.tracking.config import TrackingConfig
from adapt.tracking.delivery import Delivery
from adapt.tracking.flat import flat
from adapt.tracking.logged_models import TrackedModel
from adapt.tracking.mlflow_database import absolute
from adapt.tracking.mlflow_entries import ERROR_TAG as ERROR_TAG
from adapt.tracking.mlflow_run import BEST_CHOSEN_BY_TAG as BEST_CHOSEN_BY_TAG
from adapt.tracking.mlflow_run import BEST_PROTOCOL_TAG as BEST_PROTOCOL_TAG
from adapt.tracking.mlflow_run import BEST_SHA256_TAG as BEST_SHA256_TAG
from adapt.tracking.mlflow_run import BEST_URI_TAG as BEST_URI_TAG
from adapt.tracking.mlflow_run import BEST_WEIGHTS_TAG as BEST_WEIGHTS_TAG
from adapt.tracking.names import clean_text, digest, legal_name, legal_path, shortened
from adapt.tracking.spool import Spool, parsed
from storage.uris import without_password, without_user

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

_MAX_VALUE_CHARS = 6000
_RESTORED_KINDS = ("metrics", "text", "models")


class TrackedDataset(NamedTuple):
    """A dataset as MLflow lists it: its digest, and what it is for (`context`)."""

    name: str
    digest: str
    uri: str
    context: str
    num_samples: int


class Tracker:
    """A job's one run in MLflow, also after a restart. No method waits, except `finish`.

    A metric has one value a step: of several for the same (key, step), as after a resume from an
    older checkpoint, the first that reached the server stays. Names are made legal
    (adapt/tracking/names.py).
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
        restored: Sequence[str] = (),
        first_tags: Mapping[str, str] = MappingProxyType({}),
        begun: bool = True,
    ) -> None:
        """Open the job's spool in `config.spool_dir`, else `spool_dir`, and start to deliver it.

        uri: the resolved tracking URI. job_key: what identifies the job over its restarts.
        run_id: the run named by the checkpoint from which training resumes, at `resume_step`.
        restored: the result of `undelivered` for that checkpoint. first_tags: those that a new run
        gets, and that its readers may change. begun: False for a start that ended before it
        continued the run, which stays as it is where it has ended well. Raises `JobError` where
        the folder cannot be written, or where a running job has this spool.
        """
        folder = config.spool_dir or spool_dir
        name = f"{re.sub(r'[^A-Za-z0-9-]', '_', job_key)[:60]}-{digest(job_key)}.jsonl"
        try:
            self._spool = Spool(folder.absolute() / name, f"run {run_name}")
        except OSError as error:
            raise JobError(
                f"tracking.spool_dir: expected a writable folder, got {folder}: {error}",
                fix="name another, or leave the key out for the scratch folder",
            ) from error
        self._config, self._uri = config, uri
        start = {
            "config": config.model_dump(mode="json", exclude={"uri", "spool_dir"}),
            "run_name": run_name,
            "job_key": re.sub(r"['`\"]", "_", job_key),
            "resume_step": resume_step,
            "uri": without_user(absolute(uri)),
            "first_tags": {key: clean_text(value) for key, value in first_tags.items()},
            "begun": begun,
        }
        self._delivery = Delivery(self._spool, config.experiment, uri, start, run_id)
        self._append("start", **start)
        self._restore(restored)
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
        """How many entries are buffered in the spool, those of earlier starts included."""
        return self._spool.waiting

    def undelivered(self) -> list[str]:
        """Metrics, texts and models that MLflow may not have yet, as JSON lines, for a checkpoint.

        At most 4 MB, the newest; without pictures, which are too large.
        """
        lines = [(line, parsed(line)) for line in self._spool.tail()]
        kept = [line for line, entry in lines if entry and entry.get("kind") in _RESTORED_KINDS]
        return [line.decode().rstrip("\n") for line in kept]

    def _restore(self, lines: Sequence[str]) -> None:
        """Append the lines of a checkpoint that this spool does not have."""
        here = set(self.undelivered()) if lines else set()
        for line in lines:
            entry = parsed(line.encode() + b"\n")
            if line not in here and entry and entry.get("kind") in _RESTORED_KINDS:
                self._spool.append(entry)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """The job's parameters; nested mappings become `a.b`. MLflow never changes a parameter: a
        value that differs from the first becomes the tag `segadapt.changed_param.NAME`.
        """
        self._append("params", values=self._short(flat(params), "params"))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """The metrics of one step."""
        values = {legal_name(key): float(value) for key, value in metrics.items()}
        self._append("metrics", values=values, step=step)

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Facts of the run; a later value replaces an earlier one."""
        self._append("tags", values=self._short(tags, "tags"))

    def log_datasets(self, datasets: Iterable[TrackedDataset]) -> None:
        """Datasets that the run reads."""
        self._append("datasets", datasets=[dataset._asdict() for dataset in datasets])

    def log_text(self, text: str, artifact_path: str) -> None:
        """A text file among the run's artifacts."""
        self._append("text", text=clean_text(text), artifact_path=legal_path(artifact_path))

    def log_table(self, table: object, artifact_path: str) -> None:
        """A JSON file among the run's artifacts."""
        self.log_text(json.dumps(table, indent=2), artifact_path)

    def log_image(self, image: Image.Image | Path, artifact_path: str) -> None:
        """A picture, or a copy of its file. The caller waits for its encoding, not for MLflow."""
        artifact_path = legal_path(artifact_path)
        if isinstance(image, Image.Image):
            path = self._spool.keep(artifact_path, image.save)
        else:
            path = self._spool.keep(artifact_path, lambda path: shutil.copyfile(image, path))
        self._append_file(path, artifact_path)

    def log_file(self, content: bytes, artifact_path: str) -> None:
        """A file of these bytes among the run's artifacts."""
        artifact_path = legal_path(artifact_path)
        path = self._spool.keep(artifact_path, lambda path: path.write_bytes(content))
        self._append_file(path, artifact_path)

    def log_model(self, model: TrackedModel, kept: Iterable[str]) -> None:
        """A checkpoint as a LoggedModel of MLflow. kept: the names of all checkpoints that are in
        the store now; the LoggedModels of others are removed."""
        self._append("models", model=model._asdict(), kept=list(kept))

    def register_best(
        self,
        uri: str,
        sha256: str,
        metrics: Mapping[str, float],
        rule: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Name the best checkpoint so far, in tags of the run.

        metrics: its scores; the first is the one it was chosen by. rule:
        `protocol` and `weights` of the choice. With `register_as`, `finish("FINISHED")` makes a
        model version of it, which gets the alias `best` where no version scored more.
        """
        tags: dict[str, object] = {BEST_URI_TAG: uri, BEST_SHA256_TAG: sha256}
        tags[BEST_CHOSEN_BY_TAG] = next(iter(metrics), None)
        tags |= {f"best_checkpoint_{name}": text for name, text in rule.items()}
        self.log_tags(tags | {f"best_checkpoint_{k}": float(v) for k, v in metrics.items()})

    def finish(
        self,
        status: Status | None,
        timeout_s: float,
        error: str | None = None,
        limit_s: Callable[[], float] = lambda: math.inf,
    ) -> bool:
        """End the run; wait at most `timeout_s` for the delivery. Nothing may be logged after it.

        status: None leaves the run as it is, for another job that continues it.
        error: why it failed, for the tag `segadapt.error`; the next start removes the tag.
        limit_s: called while it waits, for the seconds that may still be waited. Returns whether
        MLflow has everything; the spool is then removed, else it stays, with a warning that names
        it.
        """
        if status == "FINISHED" and self._config.register_as is not None:
            self._append("register", name=self._config.register_as)
        reason = None if error is None else shortened(clean_text(without_password(error)))
        if status is not None:
            self._append("finish", status=status, error=reason)
        done = self._delivery.drain(timeout_s, self._tell_wait, limit_s)
        self._spool.close(remove=done)
        return done

    def _tell_wait(self, sent: int, left: int) -> None:
        server = without_password(self._uri)
        log.info("waiting for MLflow at %s: %d entries sent, %d buffered", server, sent, left)

    def _append(self, kind: str, **content: object) -> None:
        self._spool.append({"kind": kind, "time_ms": int(time.time() * 1000), **content})
        self._delivery.wake.set()

    def _append_file(self, path: Path | None, artifact_path: str) -> None:
        if path is not None:
            self._append("file", file=str(path), artifact_path=artifact_path)

    def _short(self, values: Mapping[str, object], folder: str) -> dict[str, str]:
        """Values as text; one that is too long for MLflow becomes an artifact, whose name stays."""
        texts = {legal_name(key): clean_text(str(value)) for key, value in values.items()}
        for key, text in texts.items():
            if len(text) > _MAX_VALUE_CHARS:
                artifact_path = legal_path(f"{folder}/{key}.txt")
                texts[key] = f"see artifact {artifact_path}"
                self.log_text(text, artifact_path)
        return texts
