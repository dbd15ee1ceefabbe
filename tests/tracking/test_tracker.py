"""The tracker against a real MLflow server and the sqlite default."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from PIL import Image
from pydantic import ValidationError

from adapt.errors import JobError
from adapt.tracking.config import TrackingConfig
from adapt.tracking.tracker import Status, Tracker
from tests.tracking.recorded import (
    DELIVERY_S,
    history,
    only_run,
    open_tracker,
    read_artifact,
    wait_until_delivered,
)


@pytest.fixture(params=["mlflow", "sqlite"])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_uri")


def test_everything_arrives(uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(uri, tmp_path / "spool", "all")
    picture = Image.new("RGB", (7, 5), (1, 2, 3))
    picture.save(tmp_path / "other.png")
    tracker.log_params({"seed": 1234, "train": {"steps": 10, "lr": 2.5e-4}, "sizes": [1, 2]})
    tracker.log_metrics({"loss/seg": 1.5, "iou/traffic (light)": 0.25}, step=10)
    tracker.log_metrics({"loss/seg": 0.5}, step=20)
    tracker.log_tags({"dataset": "toy"})
    tracker.log_text("seed: 1234\n", "spec.yaml")
    tracker.log_table({"road": 0.5}, "evaluations/10.json")
    tracker.log_image(picture, "pictures/10.png")
    tracker.log_image(tmp_path / "other.png", "other.png")
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert (tracker.pending, tracker.delivered) == (0, 10)
    assert list((tmp_path / "spool").iterdir()) == [], "a delivered spool is removed"

    run = only_run(uri, "all")
    assert tracker.run_id == run.info.run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "town")
    assert run.data.params == {
        "seed": "1234",
        "train.steps": "10",
        "train.lr": "0.00025",
        "sizes": "[1, 2]",
    }
    assert run.data.tags["dataset"] == "toy"
    assert history(uri, run, "loss/seg") == [(10, 1.5), (20, 0.5)]
    assert history(uri, run, "iou/traffic _light_-5d111aa1") == [(10, 0.25)]
    assert read_artifact(uri, run, "spec.yaml", tmp_path).read_text() == "seed: 1234\n"
    table = read_artifact(uri, run, "evaluations/10.json", tmp_path)
    assert json.loads(table.read_text()) == {"road": 0.5}
    for name in ("pictures/10.png", "other.png"):
        with Image.open(read_artifact(uri, run, name, tmp_path)) as arrived:
            assert (arrived.size, arrived.getpixel((0, 0))) == ((7, 5), (1, 2, 3))


def test_artifacts_of_the_embedded_default_stand_beside_the_database(
    sqlite_uri: str, tmp_path: Path
) -> None:
    tracker = open_tracker(sqlite_uri, tmp_path, "beside")
    tracker.log_text("text", "a.txt")
    assert tracker.finish("FINISHED", DELIVERY_S)
    folder = Path(sqlite_uri.removeprefix("sqlite:///")).parent
    assert (folder / "mlartifacts" / str(tracker.run_id) / "artifacts" / "a.txt").is_file()


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_status(sqlite_uri: str, tmp_path: Path, status: Status) -> None:
    assert open_tracker(sqlite_uri, tmp_path, f"status-{status}").finish(status, DELIVERY_S)
    assert only_run(sqlite_uri, f"status-{status}").info.status == status


def test_non_finite_metrics_arrive(uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(uri, tmp_path, "nan")
    tracker.log_metrics({"loss": float("nan"), "other": float("inf")}, step=1)
    tracker.log_metrics({"loss": 1.0}, step=2)
    assert tracker.finish("FAILED", DELIVERY_S)
    points = history(uri, only_run(uri, "nan"), "loss")
    assert str(points) == "[(1, nan), (2, 1.0)]"


def test_restart_continues_the_run_without_doubled_metrics(uri: str, tmp_path: Path) -> None:
    first = open_tracker(uri, tmp_path / "first", "restart")
    first.log_params({"seed": 1})
    for step in range(1, 7):
        first.log_metrics({"loss": 1 / step}, step)
    assert first.finish("KILLED", DELIVERY_S)

    again = open_tracker(uri, tmp_path / "elsewhere", "restart", run_id=first.run_id, resume_step=4)
    again.log_params({"seed": 2, "more": "x"})
    wait_until_delivered(again)
    assert only_run(uri, "restart").info.status == "RUNNING"
    for step in range(5, 9):
        again.log_metrics({"loss": 1 / step, "new": step}, step)
    assert again.finish("FINISHED", DELIVERY_S)

    run = only_run(uri, "restart")
    assert again.run_id == first.run_id == run.info.run_id
    assert history(uri, run, "loss") == [(step, 1 / step) for step in range(1, 9)]
    assert history(uri, run, "new") == [(step, float(step)) for step in range(5, 9)]
    assert run.data.params == {"seed": "1", "more": "x"}, "parameters never change"
    assert run.data.tags["segadapt.changed_param.seed"] == "2"
    assert run.data.tags["segadapt.resumed_at_step"] == "4"


def test_metrics_that_another_process_sends_late_are_not_doubled(
    sqlite_uri: str, tmp_path: Path
) -> None:
    """A job that was killed: its last request reaches the server when the next has begun."""
    killed = open_tracker(sqlite_uri, tmp_path / "first", "late")
    killed.log_metrics({"loss": 0.5, "rate": 1.0}, step=1)
    wait_until_delivered(killed)
    again = open_tracker(sqlite_uri, tmp_path / "elsewhere", "late", resume_step=1)
    again.log_metrics({"loss": 0.4, "rate": 1.0}, step=2)
    wait_until_delivered(again)
    for tracker in (killed, again):
        tracker.log_metrics({"loss": 0.3, "rate": 2.0}, step=3)
        wait_until_delivered(tracker)
    assert again.finish("FINISHED", DELIVERY_S) and killed.finish(None, DELIVERY_S)
    run = only_run(sqlite_uri, "late")
    assert history(sqlite_uri, run, "loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert history(sqlite_uri, run, "rate") == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_run_is_found_by_its_job_key_alone(sqlite_uri: str, tmp_path: Path) -> None:
    first = open_tracker(sqlite_uri, tmp_path / "1", "found")
    assert first.finish("FAILED", DELIVERY_S)
    again = open_tracker(sqlite_uri, tmp_path / "2", "found")
    assert again.finish("FINISHED", DELIVERY_S)
    assert again.run_id == first.run_id


def test_unknown_run_id_begins_a_new_run(
    sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(sqlite_uri, tmp_path, "unknown", run_id="0" * 32)
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert only_run(sqlite_uri, "unknown").info.run_id == tracker.run_id
    assert "does not know the run 000" in caplog.text


def test_a_step_logged_twice_keeps_its_first_value(sqlite_uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(sqlite_uri, tmp_path, "twice")
    tracker.log_metrics({"miou": 0.5}, step=3)
    tracker.log_metrics({"miou": 0.6}, step=3)
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert history(sqlite_uri, only_run(sqlite_uri, "twice"), "miou") == [(3, 0.5)]


def test_more_metrics_than_one_request_takes(mlflow_uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(mlflow_uri, tmp_path, "many")
    tracker.log_params({f"p{i}": i for i in range(130)})
    for step in range(500):
        tracker.log_metrics({"a": step, "b": -step, "c": 0}, step)
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(mlflow_uri, "many")
    assert len(run.data.params) == 130
    assert history(mlflow_uri, run, "b") == [(step, -step) for step in range(500)]


def test_long_values_become_artifacts(sqlite_uri: str, tmp_path: Path) -> None:
    tracker = open_tracker(sqlite_uri, tmp_path, "long")
    tracker.log_params({"table": "x" * 6001, "short": "y" * 6000})
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(sqlite_uri, "long")
    assert run.data.params["table"] == "see artifact params/table.txt"
    assert run.data.params["short"] == "y" * 6000
    text = read_artifact(sqlite_uri, run, "params/table.txt", tmp_path).read_text()
    assert text == "x" * 6001


def register(uri: str, folder: Path, job_key: str, best_uri: str, miou: float) -> None:
    tracker = open_tracker(uri, folder, job_key, register_as="town-net")
    tracker.register_best("s3://bucket/early.safetensors", "00", {"miou": miou / 2})
    tracker.register_best(best_uri, "ab" * 32, {"miou": miou})
    assert tracker.finish("FINISHED", DELIVERY_S)


@pytest.mark.slow
def test_best_checkpoint_is_tagged_and_registered(uri: str, tmp_path: Path) -> None:
    for job_key, miou in (("best-1", 0.5), ("best-2", 0.7), ("best-3", 0.6)):
        register(uri, tmp_path, job_key, f"s3://bucket/{job_key}.safetensors", miou)
    register(uri, tmp_path, "best-2", "s3://bucket/best-2.safetensors", 0.7)
    tags = only_run(uri, "best-1").data.tags
    assert tags["best_checkpoint_uri"] == "s3://bucket/best-1.safetensors"
    assert tags["best_checkpoint_sha256"] == "ab" * 32
    client = MlflowClient(tracking_uri=uri)
    best = client.get_model_version_by_alias("town-net", "best")
    assert best.source == "s3://bucket/best-2.safetensors"
    assert best.tags["best_checkpoint_miou"] == "0.7"
    assert len(client.search_model_versions("name = 'town-net'")) == 3


def test_of_two_runs_chosen_by_an_awkward_metric_the_better_has_the_alias(
    sqlite_uri: str, tmp_path: Path
) -> None:
    """A subset of classes may be named so."""
    for job_key, score in (("awkward-1", 0.7), ("awkward-2", 0.6)):
        tracker = open_tracker(sqlite_uri, tmp_path, job_key, register_as="awkward-net")
        tracker.register_best(f"s3://bucket/{job_key}", "ab" * 32, {"miou_small (cars)": score})
        assert tracker.finish("FINISHED", DELIVERY_S)
    best = MlflowClient(sqlite_uri).get_model_version_by_alias("awkward-net", "best")
    assert best.source == "s3://bucket/awkward-1"


@pytest.mark.parametrize(
    ("name", "winner"), [("mean_entropy", "second"), ("ensemble_agreement", "third")]
)
def test_the_alias_follows_the_direction_of_the_score(
    name: str, winner: str, sqlite_uri: str, tmp_path: Path
) -> None:
    """Less entropy is better; agreement compares within a run, so the newest run has the alias."""
    for run, score in (("first", 0.3), ("second", 0.2), ("third", 0.25)):
        tracker = open_tracker(sqlite_uri, tmp_path, f"{name}-{run}", register_as=f"{name}-net")
        tracker.register_best(f"s3://bucket/{run}", "ab" * 32, {name: score, "miou": 0.5})
        assert tracker.finish("FINISHED", DELIVERY_S)
    best = MlflowClient(sqlite_uri).get_model_version_by_alias(f"{name}-net", "best")
    assert best.source == f"s3://bucket/{winner}"


def test_what_the_server_refuses_does_not_stop_the_rest(
    mlflow_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register(mlflow_uri, tmp_path, "refused", "s3://bucket/../weights.safetensors", 0.1)
    run = only_run(mlflow_uri, "refused")
    assert run.info.status == "FINISHED"
    assert run.data.tags["best_checkpoint_uri"] == "s3://bucket/../weights.safetensors"
    assert "MLflow refuses register, which is skipped: " in caplog.text


def test_why_a_run_failed_is_told_until_the_next_start(uri: str, tmp_path: Path) -> None:
    secret = "StoreError: http://me:secret@host/ is away"
    for attempt, error in ((1, secret), (2, "A" * 9000 + "the end")):
        assert open_tracker(uri, tmp_path, "why").finish("FAILED", DELIVERY_S, error)
        run = only_run(uri, "why")
        told = run.data.tags["segadapt.error"]
        assert run.info.status == "FAILED" and len(told) <= 5000
        assert told.endswith("the end" if attempt == 2 else "http://***@host/ is away")
    again = open_tracker(uri, tmp_path, "why")
    wait_until_delivered(again)
    assert "segadapt.error" not in only_run(uri, "why").data.tags
    assert again.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "why")
    assert run.info.status == "FINISHED" and "segadapt.error" not in run.data.tags


def test_a_checkpoint_carries_metrics_to_a_node_with_an_empty_disk(
    uri: str, absent_uri: str, tmp_path: Path
) -> None:
    first = open_tracker(absent_uri, tmp_path / "node0", "carried")
    first.log_params({"seed": 1})
    for step in range(1, 6):
        first.log_metrics({"loss": step / 8, "miou": float("nan")}, step)
    first.log_text("hello", "evaluations/5.json")
    kept = first.undelivered()
    assert [json.loads(line)["kind"] for line in kept] == ["metrics"] * 5 + ["text"]
    assert not first.finish("KILLED", timeout_s=0)
    shutil.rmtree(tmp_path / "node0")

    again = open_tracker(uri, tmp_path / "node1", "carried", resume_step=5, restored=kept)
    for step in range(5, 8):
        again.log_metrics({"loss": step / 8}, step)
    assert again.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "carried")
    assert history(uri, run, "loss") == [(step, step / 8) for step in range(1, 8)]
    points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "loss")
    times_ms = [json.loads(line)["time_ms"] for line in kept[:5]]
    assert sorted(point.timestamp for point in points)[:5] == times_ms
    assert read_artifact(uri, run, "evaluations/5.json", tmp_path).read_text() == "hello"


def test_what_a_checkpoint_kept_is_not_doubled_where_the_spool_is_still_there(
    absent_uri: str, tmp_path: Path
) -> None:
    first = open_tracker(absent_uri, tmp_path, "same")
    first.log_metrics({"loss": 0.1}, 1)
    kept = first.undelivered()
    assert not first.finish("KILLED", timeout_s=0)
    again = open_tracker(absent_uri, tmp_path, "same", restored=[*kept, "{", '{"kind": "tags"}'])
    assert (again.undelivered(), again.pending) == (kept, 4)
    assert not again.finish("KILLED", timeout_s=0)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_only_times(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day_s, now_s = 86400.0, time.time()
    clock_s = [now_s]
    monkeypatch.setattr(
        "adapt.tracking.tracker.time",
        SimpleNamespace(time=lambda: clock_s[0], monotonic=time.monotonic),
    )
    tracker = open_tracker(uri, tmp_path / "spool", "jump")
    for step, jump_s in ((1, 0.0), (2, day_s), (3, -day_s), (4, 0.0)):
        clock_s[0] = now_s + jump_s
        tracker.log_metrics({"loss": step}, step)
        tracker.log_image(Image.new("RGB", (2, 2)), f"{step}/a.png")
        wait_until_delivered(tracker)
    clock_s[0] = now_s - 2 * day_s
    assert tracker.finish("KILLED", DELIVERY_S)
    again = open_tracker(uri, tmp_path / "spool", "jump")
    again.log_metrics({"loss": 5}, 5)
    assert again.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "jump")
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 5)
    assert history(uri, run, "loss") == [(step, step) for step in range(1, 6)]
    for step in range(1, 5):
        assert read_artifact(uri, run, f"{step}/a.png", tmp_path).is_file()


def test_unwritable_spool_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        JobError, match=r"tracking.spool_dir: expected a writable folder, got .*file.* Fix: name"
    ):
        open_tracker("sqlite:///x.db", tmp_path / "file", "any")


def test_two_jobs_of_one_key_are_refused(absent_uri: str, tmp_path: Path) -> None:
    first = open_tracker(absent_uri, tmp_path, "key")
    with pytest.raises(
        JobError, match=r"run town is being trained already, .* Fix: wait for its end or stop it"
    ):
        open_tracker(absent_uri, tmp_path, "key")
    assert not first.finish("KILLED", timeout_s=0)
    assert not open_tracker(absent_uri, tmp_path, "key").finish("KILLED", timeout_s=0)


def test_config_spool_dir_comes_first(absent_uri: str, tmp_path: Path) -> None:
    config = TrackingConfig(spool_dir=tmp_path / "mine")
    tracker = Tracker(
        config, uri=absent_uri, run_name="r", job_key="k", spool_dir=tmp_path / "default"
    )
    assert not tracker.finish("FAILED", timeout_s=0)
    assert len(list((tmp_path / "mine").glob("*.jsonl"))) == 1
    assert not (tmp_path / "default").exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("htp://server", "expected a URI of http, https"),
        ("http://me:secret@server", "without user and password"),
        ("postgresql://me:secret@server/db", "without user and password"),
    ],
)
def test_config_refuses_uri(uri: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrackingConfig(uri=uri)


@pytest.mark.parametrize(
    "uri", ["http://server:5000/path", "sqlite:///a.db", "postgresql+psycopg2://host/db"]
)
def test_config_accepts_uri(uri: str) -> None:
    assert TrackingConfig(uri=uri).uri == uri
