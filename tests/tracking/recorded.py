"""For tests of the tracker: opens one, and reads back what MLflow has."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from adapt.tracking.config import TrackingConfig
from adapt.tracking.mlflow_database import make_database
from adapt.tracking.tracker import Tracker

DELIVERY_S = 60.0


def new_database(folder: Path) -> str:
    """The tracking URI of a new database file, `mlflow.db` in a folder below this one.

    MLflow keeps files open by their names, and pytest gives the folder of a test that has passed to
    another one whose name begins alike: no two have one name.
    """
    uri = f"sqlite:///{folder}/{uuid4().hex}/mlflow.db"
    make_database(uri)
    return uri


def open_tracker(uri: str, folder: Path, job_key: str, **more: Any) -> Tracker:
    config = TrackingConfig(experiment="streets", register_as=more.pop("register_as", None))
    named = {"run_name": "town", **more}
    return Tracker(config, uri=uri, job_key=job_key, spool_dir=folder, **named)


def wait_until_delivered(tracker: Tracker, timeout_s: float = DELIVERY_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while tracker.pending:
        assert time.monotonic() < deadline_s, f"{tracker.pending} entries are still pending"
        time.sleep(0.05)


def wait_for_warning(caplog: pytest.LogCaptureFixture, timeout_s: float = DELIVERY_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while "training continues and metrics are buffered in" not in caplog.text:
        assert time.monotonic() < deadline_s, caplog.text
        time.sleep(0.05)


def only_run(uri: str, job_key: str) -> Run:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("streets")
    assert experiment is not None
    query = f"tags.`segadapt.job_key` = '{job_key}'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    return run


def history(uri: str, run: Run, key: str) -> list[tuple[int, float]]:
    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def read_artifact(uri: str, run: Run, artifact_path: str, folder: Path) -> Path:
    client = MlflowClient(tracking_uri=uri)
    return Path(client.download_artifacts(run.info.run_id, artifact_path, str(folder)))
