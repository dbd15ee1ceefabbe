"""The MLflow run of a job over stops, outages and failures."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapt.errors import DataError, Interrupted
from adapt.places import Place
from adapt.tracking.mlflow_database import embedded_tracking_uri
from tests.trainer.jobs import job_of, run


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
    history = client.get_metric_history(found.info.run_id, "loss/segmentation/main")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]


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
