"""Which run a best checkpoint is downloaded of, and when there is none."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from adapt.errors import JobError
from adapt.places import Place
from adapt.trainer.download import download_best


def test_a_name_that_runs_of_two_experiments_share_is_refused(
    mlflow_uri: str, place: Place, tmp_path: Path
) -> None:
    client = MlflowClient(mlflow_uri)
    experiments = [client.create_experiment(f"download-{number}") for number in range(2)]
    runs = [client.create_run(one, run_name="download-twin").info.run_id for one in experiments]
    with pytest.raises(JobError, match=r"got runs of several experiments. Fix: name one by") as two:
        download_best("download-twin", tmp_path, mlflow_uri, place)
    assert all(run in str(two.value) for run in runs)


def test_a_run_without_an_evaluation_has_no_best(
    mlflow_uri: str, place: Place, tmp_path: Path
) -> None:
    client = MlflowClient(mlflow_uri)
    experiment = client.create_experiment("download-early")
    client.create_run(experiment, run_name="download-early-run")
    with pytest.raises(
        JobError, match=r"with a best checkpoint, got none. Fix: wait for the first"
    ):
        download_best("download-early", tmp_path, mlflow_uri, place)
