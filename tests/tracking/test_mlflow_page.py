"""What people see in MLflow: the experiment's page, the run's description, its datasets."""

import logging
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from adapt.tracking.config import TrackingConfig
from adapt.tracking.tracker import TrackedDataset
from tests.tracking.recorded import DELIVERY_S, history, new_database, only_run, open_tracker

KIND = "mlflow.experimentKind"
TOWN = TrackedDataset("town/train", "ab" * 16, "s3://bucket/town", "source", 400)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return new_database(tmp_path / "runs")


def experiment(uri: str) -> Experiment:
    found = MlflowClient(uri).get_experiment_by_name("streets")
    assert found is not None
    return found


def test_a_new_experiment_opens_on_its_runs(uri: str, tmp_path: Path) -> None:
    assert open_tracker(uri, tmp_path / "spool", "new").finish("FINISHED", DELIVERY_S)
    assert experiment(uri).tags[KIND] == "custom_model_development"


def test_a_job_names_the_page_of_its_run(
    mlflow_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its end MLflow 3.17 opens its page for generative AI, whatever the kind is."""
    caplog.set_level(logging.INFO)
    tracker = open_tracker(mlflow_uri, tmp_path / "spool", "page")
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(mlflow_uri, "page").info
    page = f"{mlflow_uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    assert f"MLflow shows the run at {page}?workflowType=machine_learning" in caplog.text


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "custom_model_development"), ({KIND: "genai_development"}, "genai_development")],
)
def test_an_experiment_that_is_there_keeps_its_kind(
    uri: str, tmp_path: Path, before: dict[str, str], after: str
) -> None:
    MlflowClient(uri).create_experiment("streets", tags=before)
    assert open_tracker(uri, tmp_path / "spool", "there").finish("FINISHED", DELIVERY_S)
    assert experiment(uri).tags[KIND] == after


def test_who_may_not_change_the_experiment_tracks_all_the_same(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_given: object) -> None:
        raise MlflowException("Permission denied", error_code=7)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", denied)
    MlflowClient(uri).create_experiment("streets")
    assert open_tracker(uri, tmp_path / "spool", "denied").finish("FINISHED", DELIVERY_S)


def test_a_description_is_a_first_one_and_its_readers_may_change_it(
    uri: str, tmp_path: Path
) -> None:
    note = "mlflow.note.content"
    first: dict[str, Any] = {"first_tags": {note: "written by the job"}}
    assert open_tracker(uri, tmp_path / "1", "note", **first).finish("KILLED", DELIVERY_S)
    run = only_run(uri, "note")
    assert run.data.tags[note] == "written by the job"
    MlflowClient(uri).set_tag(run.info.run_id, note, "mine")
    assert open_tracker(uri, tmp_path / "2", "note", **first).finish("FINISHED", DELIVERY_S)
    assert only_run(uri, "note").data.tags[note] == "mine"


@pytest.mark.parametrize("server", ["uri", "mlflow_uri"])
def test_datasets_are_listed_once_over_restarts(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    uri = request.getfixturevalue(server)
    for start in ("1", "2"):
        tracker = open_tracker(uri, tmp_path / start, "datasets")
        tracker.log_datasets([TOWN, TOWN._replace(name="city/val", context="validation")])
        assert tracker.finish("FINISHED", DELIVERY_S)
    inputs = only_run(uri, "datasets").inputs.dataset_inputs
    listed = {(one.dataset.name, one.tags[0].value, one.dataset.digest) for one in inputs}
    assert listed == {("town/train", "source", "ab" * 16), ("city/val", "validation", "ab" * 16)}
    assert (inputs[0].dataset.source_type, inputs[0].dataset.source) == (
        "s3",
        '{"uri": "s3://bucket/town"}',
    )


def test_a_server_without_datasets_gets_the_rest(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer, 404, is that of a wrong address too, which is asked again for ever."""

    def unknown(*_given: object, **_named: object) -> None:
        error = MlflowException("Not Found")
        error.error_code = "ENDPOINT_NOT_FOUND"
        raise error

    monkeypatch.setattr(MlflowClient, "log_inputs", unknown)
    tracker = open_tracker(uri, tmp_path / "spool", "older")
    tracker.log_datasets([TOWN])
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert history(uri, only_run(uri, "older"), "loss") == [(1, 1.0)]


def test_a_long_run_name_is_cut(uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(uri, tmp_path / "spool", "long-name", run_name="x" * 300)
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert only_run(uri, "long-name").info.run_name == "x" * 250


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"register_as": "a/b"}, "expected a name without '/' and ':', got 'a/b'"),
        ({"register_as": "a:1"}, "expected a name without '/' and ':', got 'a:1'"),
        ({"register_as": ".."}, r"got '\.\.'"),
        ({"experiment": "x" * 251}, "at most 250 characters"),
    ],
)
def test_names_that_mlflow_refuses_are_refused_before_the_run(
    values: dict[str, str], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        TrackingConfig.model_validate(values)
