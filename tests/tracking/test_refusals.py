"""One value that MLflow refuses costs that value alone; a database in trouble costs none."""

import json
import logging
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from adapt.tracking.delivery import Delivery
from adapt.tracking.mlflow_database import make_database
from adapt.tracking.mlflow_errors import failures
from adapt.tracking.names import legal_name, legal_path
from adapt.tracking.spool import Spool
from tests.tracking.recorded import (
    DELIVERY_S,
    history,
    new_database,
    only_run,
    open_tracker,
    read_artifact,
    wait_until_delivered,
)
from tests.tracking.test_mlflow_names import AWKWARD


@pytest.fixture(params=["mlflow", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return new_database(tmp_path / "runs")
    return str(request.getfixturevalue("mlflow_uri"))


@pytest.mark.slow
def test_nothing_with_an_awkward_name_is_lost(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(uri, tmp_path / "spool", "awkward")
    numbers = {name: float(number) for number, name in enumerate(AWKWARD)}
    tracker.log_params({"stores": {"s3://b": {"region": "eu"}}, "seed": 1} | numbers)
    for step in (1, 2):
        tracker.log_metrics(numbers, step)
    tracker.log_tags(numbers)
    for name in AWKWARD:
        tracker.log_text(name, f"texts/{name}")
    tracker.log_image(Image.new("RGB", (2, 2)), "a//b/../(1).png")
    assert tracker.finish("FINISHED", DELIVERY_S)

    run = only_run(uri, "awkward")
    assert "refuses" not in caplog.text
    assert run.data.params[legal_name("stores.s3://b.region")] == "eu"
    assert run.data.params["seed"] == "1"
    client = MlflowClient(tracking_uri=uri)
    for name, value in numbers.items():
        legal = legal_name(name)
        assert run.data.params[legal] == run.data.tags[legal] == str(value)
        assert run.data.metrics[legal] == value
    assert history(uri, run, legal_name("..")) == [(1, numbers[".."]), (2, numbers[".."])]
    assert client.list_artifacts(run.info.run_id, "a/b")[0].path == legal_path("a//b/../(1).png")
    for name in ("traffic (light)", "x" * 252, "a#b", "%2e%2e/x", "straße"):
        found = read_artifact(uri, run, legal_path(f"texts/{name}"), tmp_path)
        assert found.read_text() == name


def test_names_are_the_same_after_a_restart(tmp_path: Path) -> None:
    uri = new_database(tmp_path / "runs")
    for step, names in ((1, ["car [a]", "car (a)"]), (2, ["car (a)", "car [a]"])):
        tracker = open_tracker(uri, tmp_path / f"{step}", "restart-names")
        for name in names:
            tracker.log_metrics({name: float("[" in name)}, step)
        assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "restart-names")
    assert history(uri, run, legal_name("car (a)")) == [(1, 0.0), (2, 0.0)]
    assert history(uri, run, legal_name("car [a]")) == [(1, 1.0), (2, 1.0)]


def test_two_params_of_one_flat_name_stay_two(tmp_path: Path) -> None:
    uri = new_database(tmp_path / "runs")
    tracker = open_tracker(uri, tmp_path / "spool", "flat")
    tracker.log_params({"a.b": 1, "a": {"b": 2}, "c": 3})
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert sorted(only_run(uri, "flat").data.params.values()) == ["1", "2", "3"]


def test_a_refused_value_costs_no_other(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A param that another program set; a metric that is no number, in a spool of some version."""
    tracker = open_tracker(uri, tmp_path / "spool", "amid")
    wait_until_delivered(tracker)
    MlflowClient(tracking_uri=uri).log_param(str(tracker.run_id), "p13", "other")
    tracker.log_params({f"p{number:02d}": number for number in range(40)})
    tracker._append("metrics", values={"a": 1.0, "b": "no number", "c": 3.0}, step=1)
    tracker._append("metrics", values={"a": 2.0, "b": "no number"}, step=2)
    tracker._append("metrics", values={"b": "no number"}, step=3)
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "amid")
    expected = {f"p{number:02d}": str(number) for number in range(40)} | {"p13": "other"}
    assert run.data.params == expected
    assert history(uri, run, "a") == [(1, 1.0), (2, 2.0)]
    assert history(uri, run, "c") == [(1, 3.0)]
    assert "b" not in run.data.metrics
    for name in ("params p13", "metrics b"):
        assert caplog.text.count(f"MLflow refuses {name}, which is skipped: ") == 1
    assert tracker.delivered == 5, "an entry all of whose values are refused is not delivered"


def test_params_too_many_for_one_request_arrive(mlflow_uri: str, tmp_path: Path) -> None:
    """100 values of 6000 letters are more than the megabyte that a request may have."""
    tracker = open_tracker(mlflow_uri, tmp_path, "large")
    tracker.log_params({f"p{number}": "ü" * 6000 for number in range(100)})
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert len(only_run(mlflow_uri, "large").data.params) == 100


@pytest.mark.parametrize("trouble", ["database is locked", "database or disk is full"])
def test_a_database_in_trouble_refuses_nothing(trouble: str, tmp_path: Path) -> None:
    spool, uri = Spool(tmp_path / "a.jsonl"), new_database(tmp_path)
    start = {"job_key": "a", "run_name": "town", "resume_step": None}
    delivery = Delivery(spool, "streets", uri, start, None)
    delivery._run.attach(1)
    error = MlflowException(f"(sqlite3.OperationalError) {trouble}")
    assert not any(delivery._is_hopeless(error, failures()) for _ in range(10))
    spool.close(remove=True)


def test_a_replaced_database_is_opened_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As by a second job that makes the same file: sqlite calls the old one readonly."""
    caplog.set_level(logging.INFO)
    uri = new_database(tmp_path / "runs")
    tracker = open_tracker(uri, tmp_path / "spool", "replaced")
    wait_until_delivered(tracker)
    Path(uri.removeprefix("sqlite:///")).unlink()
    make_database(uri)
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert history(uri, only_run(uri, "replaced"), "loss") == [(1, 1.0)]
    assert "readonly" not in caplog.text and "writable" not in caplog.text


def test_the_spool_keeps_no_illegal_name(tmp_path: Path, absent_uri: str) -> None:
    """An earlier version that reads it sends names as they are."""
    tracker = open_tracker(absent_uri, tmp_path, "older")
    tracker.log_metrics({"a//b": 1.0}, 1)
    tracker.log_params({"c": {"d//e": 1}})
    assert not tracker.finish("KILLED", 0)
    (spool,) = tmp_path.glob("*.jsonl")
    entries = [json.loads(line) for line in spool.read_text().splitlines()]
    assert [list(entry["values"]) for entry in entries if "values" in entry] == [
        [legal_name("a//b")],
        [legal_name("c.d//e")],
    ]
