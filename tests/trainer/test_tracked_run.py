"""The MLflow run of a job over stops, outages and failures."""

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from adapt.errors import DataError, Interrupted
from adapt.places import Place
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.run import run_job
from adapt.trainer.tracked_run import FINISHED_FLUSH_S
from tests.trainer.jobs import job_of, run


@pytest.mark.slow
def test_no_metric_is_lost_with_the_scratch_disk_while_mlflow_is_away(
    tiny_job: dict[str, Any], place: Place
) -> None:
    from mlflow import MlflowClient

    with pytest.raises(Interrupted):
        run(job_of(tiny_job, "tracking.uri=http://127.0.0.1:9"), place, stop_at=4)
    shutil.rmtree(place.scratch_dir)
    job = job_of(tiny_job)
    run(job, place)
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/loss.segmentation.main")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_that_failed_says_why(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def broken(*_given: Any) -> None:
        raise DataError("shard 3 is torn")

    with monkeypatch.context() as patch:
        patch.setattr("adapt.engine.engine.Engine.step", broken)
        with pytest.raises(DataError):
            run(job_of(tiny_job), place)
    job = job_of(tiny_job)
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.tags["segadapt.error"] == "DataError: shard 3 is torn"
    run(job, place)
    healed = client.get_run(found.info.run_id)
    assert healed.info.status == "FINISHED" and "segadapt.error" not in healed.data.tags


@pytest.mark.slow
def test_a_job_that_ends_well_waits_for_its_database_file(
    tiny_job: dict[str, Any], place: Place
) -> None:
    """A grace as short as a container's leaves a sixth of it; the file needs seconds."""
    from mlflow import MlflowClient

    job = job_of(tiny_job)
    run(job, replace(place, grace_s=0.01))
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert not list((place.scratch_dir / "tracking").glob("**/*.jsonl"))


@pytest.mark.slow
def test_a_job_that_ends_well_waits_for_its_server_and_says_so(
    tiny_job: dict[str, Any],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A minute, here 1 s, not a sixth of the grace; the heartbeat goes on."""
    assert FINISHED_FLUSH_S == 60
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("adapt.trainer.tracked_run.FINISHED_FLUSH_S", 1.0)
    monkeypatch.setattr("adapt.tracking.delivery._REPORT_S", 0.5)
    beats: list[float] = []
    job = job_of(tiny_job, "tracking.uri=http://127.0.0.1:9")
    short = replace(place, grace_s=0.01)
    run_job(job, short, Event(), beat=lambda: beats.append(time.monotonic()))
    assert "waiting for MLflow at http://127.0.0.1:9: 0 entries sent, " in caplog.text
    assert len([beat for beat in beats if beat > beats[-1] - 0.9]) > 2
    assert "run `segadapt sync-metrics /" in caplog.text


@pytest.mark.slow
def test_a_stop_while_the_end_waits_leaves_within_the_grace(
    tiny_job: dict[str, Any],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("adapt.tracking.delivery._REPORT_S", 0.2)
    stop, stopped_s = Event(), [0.0]

    def beat() -> None:
        if "waiting for MLflow" in caplog.text and not stop.is_set():
            stop.set()
            stopped_s[0] = time.monotonic()

    outcome = run_job(
        job_of(tiny_job, "tracking.uri=http://127.0.0.1:9"),
        replace(place, grace_s=3),
        stop,
        beat=beat,
    )
    assert outcome.step == 6 and stop.is_set()
    assert time.monotonic() - stopped_s[0] < 5
