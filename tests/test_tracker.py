"""The tracker against a real MLflow server, the sqlite default, and servers that are away or say no."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from pydantic import ValidationError

from adapt.errors import JobError
from adapt.platforms import local_stack
from adapt.platforms.local_stack import free_ports, mlflow_server
from adapt.tracker import Spool, Status, Tracker, TrackingConfig, deliver_spool, without_password

pytest_plugins = ["tests.servers"]

DELIVERY_S = 60.0


@pytest.fixture(scope="module")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('a folder')}/new/mlflow.db"


@pytest.fixture(params=["mlflow", "sqlite"])
def uri(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_uri")


@pytest.fixture
def absent_uri() -> str:
    """An address that refuses connections."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def open_tracker(uri: str, folder: Path, job_key: str, **more: Any) -> Tracker:
    config = TrackingConfig(experiment="streets", register_as=more.pop("register_as", None))
    return Tracker(config, uri=uri, run_name="town", job_key=job_key, spool_dir=folder, **more)


def wait_until_delivered(tracker: Tracker, timeout_s: float = DELIVERY_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while tracker.pending:
        assert time.monotonic() < deadline_s, f"{tracker.pending} entries are still pending"
        time.sleep(0.05)


def wait_for_warning(caplog: pytest.LogCaptureFixture, timeout_s: float = DELIVERY_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while "takes nothing now" not in caplog.text:
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
    assert history(uri, run, "iou/traffic _light_") == [(10, 0.25)]
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


def test_what_the_server_refuses_does_not_stop_the_rest(
    mlflow_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register(mlflow_uri, tmp_path, "refused", "file:///tmp/local.safetensors", 0.1)
    run = only_run(mlflow_uri, "refused")
    assert run.info.status == "FINISHED"
    assert run.data.tags["best_checkpoint_uri"] == "file:///tmp/local.safetensors"
    assert "MLflow refuses register; left out: " in caplog.text


def test_broken_artifact_store_does_not_stop_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapt.tracker._BACKOFF_S", (0.05, 0.05))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "file").write_text("no folder")
    MlflowClient(tracking_uri=uri).create_experiment("streets", f"file:{tmp_path}/file/below")
    tracker = open_tracker(uri, tmp_path / "spool", "broken")
    tracker.log_text("hello", "a.txt")
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "broken")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})
    assert "MLflow refuses text; left out: " in caplog.text
    assert tracker.delivered == 3


def test_server_that_comes_later_gets_everything_once_in_order(
    absent_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "adapt.tracker")
    tracker = open_tracker(absent_uri, tmp_path / "spool", "later")
    for step in range(50):
        tracker.log_metrics({"loss": step}, step)
    tracker.log_text("hello", "a.txt")
    time.sleep(2)
    assert (tracker.run_id, tracker.delivered, tracker.pending) == (None, 0, 52)

    port = int(absent_uri.rpartition(":")[2])
    monkeypatch.setattr(local_stack, "free_ports", lambda count: [port])
    with mlflow_server(tmp_path / "server") as uri:
        tracker.log_metrics({"loss": 50}, 50)
        wait_until_delivered(tracker)
        assert tracker.finish("FINISHED", DELIVERY_S)
        run = only_run(uri, "later")
        points = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in points] == list(range(51))
    times_ms = [point.timestamp for point in points]
    assert times_ms == sorted(times_ms)
    assert run.info.start_time <= times_ms[0], "times are those of the logging, not of the delivery"
    assert caplog.text.count("takes nothing now") == 1
    assert "answers again" in caplog.text


def test_absent_server_costs_no_time_and_leaves_the_spool(
    absent_uri: str, sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = open_tracker(absent_uri, tmp_path, "absent")
    calls_s = []
    for step in range(1000):
        start_s = time.perf_counter()
        tracker.log_metrics({"loss": step, "lr": 0.1}, step)
        calls_s.append(time.perf_counter() - start_s)
    assert sum(calls_s) < 1
    tracker.log_image(Image.new("RGB", (2, 2)), "a.png")

    start_s = time.monotonic()
    assert not tracker.finish("FINISHED", timeout_s=1.5)
    assert time.monotonic() - start_s < 3
    (spool,) = tmp_path.glob("*.jsonl")
    assert tracker.pending == 1003
    assert len(spool.read_text().splitlines()) == 1003
    assert f"has not received 1003 entries; they stay in {spool}" in caplog.text

    assert deliver_spool(spool, sqlite_uri, DELIVERY_S)
    run = only_run(sqlite_uri, "absent")
    assert run.info.status == "FINISHED"
    assert history(sqlite_uri, run, "loss") == [(step, step) for step in range(1000)]
    assert list(tmp_path.iterdir()) == []


def test_next_start_sends_what_the_last_one_could_not(
    absent_uri: str, sqlite_uri: str, tmp_path: Path
) -> None:
    first = open_tracker(absent_uri, tmp_path, "next")
    for step in range(1, 6):
        first.log_metrics({"loss": step}, step)
    assert not first.finish("KILLED", timeout_s=0.1)
    again = open_tracker(sqlite_uri, tmp_path, "next", resume_step=3)
    for step in range(4, 8):
        again.log_metrics({"loss": step}, step)
    assert again.finish("FINISHED", DELIVERY_S)
    run = only_run(sqlite_uri, "next")
    assert run.info.status == "FINISHED"
    assert history(sqlite_uri, run, "loss") == [(step, step) for step in range(1, 8)]


@pytest.mark.parametrize(
    ("status", "body", "cure"),
    [
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (401, "You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, "Permission denied", "the right to edit"),
        (404, "<html>nginx</html>", "check the path"),
        (500, "oops", "see that the server is up"),
    ],
)
def test_one_warning_names_the_cure(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: str,
    cure: str,
) -> None:
    monkeypatch.setattr("adapt.tracker._BACKOFF_S", (0.1, 0.1))
    with answering(status, body) as uri:
        tracker = open_tracker(uri, tmp_path, "closed")
        tracker.log_metrics({"loss": 1.0}, 1)
        wait_for_warning(caplog)
        time.sleep(0.5)
        assert not tracker.finish("FAILED", timeout_s=0.2)
    assert caplog.text.count("takes nothing now") == 1
    assert cure in caplog.text
    assert tracker.pending == 3


def test_deleted_experiment_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.create_experiment("streets"))
    tracker = open_tracker(uri, tmp_path / "spool", "deleted")
    wait_for_warning(caplog)
    assert not tracker.finish("FAILED", timeout_s=0)
    assert "the experiment was deleted" in caplog.text


def test_unwritable_database_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").mkdir()
    tracker = open_tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "spool", "folder")
    wait_for_warning(caplog)
    assert not tracker.finish("FAILED", timeout_s=0)
    assert "the database's folder can be written" in caplog.text


def test_unwritable_spool_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"tracking.spool_dir: .*file.* cannot be written"):
        open_tracker("sqlite:///x.db", tmp_path / "file", "any")


def test_config_spool_dir_comes_first(absent_uri: str, tmp_path: Path) -> None:
    config = TrackingConfig(spool_dir=tmp_path / "mine")
    tracker = Tracker(
        config, uri=absent_uri, run_name="r", job_key="k", spool_dir=tmp_path / "default"
    )
    assert not tracker.finish("FAILED", timeout_s=0)
    assert len(list((tmp_path / "mine").glob("*.jsonl"))) == 1
    assert not (tmp_path / "default").exists()


def test_deliver_spool_wants_a_spool(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"kind": "metrics"}\n')
    for name in ("a.jsonl", "missing.jsonl"):
        with pytest.raises(JobError, match=rf"{name}: expected a spool"):
            deliver_spool(tmp_path / name, "sqlite:///x.db", 1)


def test_spool_skips_lines_that_were_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"kind": "tags", "n": 1}\n{"kind": "ta')
    spool = Spool(path)
    spool.append({"n": 2})
    assert [entry["n"] for entry, _ in spool.read()] == [1, 2]
    assert spool.waiting == 2


def test_spool_goes_on_after_its_mark(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a.jsonl")
    for n in range(3):
        spool.append({"n": n})
    (_, offset), *_ = spool.read()
    spool.mark(offset, 1)
    spool.close(remove=False)
    again = Spool(tmp_path / "a.jsonl")
    assert [entry["n"] for entry, _ in again.read()] == [1, 2]
    assert again.waiting == 2


def test_full_disk_warns_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "a.jsonl")

    def refuse(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adapt.tracker.os.write", refuse)
        for n in range(3):
            spool.append({"n": n})
    spool.append({"n": 3})
    assert [entry["n"] for entry, _ in spool.read()] == [3]
    assert caplog.text.count("figures for MLflow are lost") == 1


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


def test_passwords_never_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://me:secret@127.0.0.1:{free_ports(1)[0]}"
    tracker = open_tracker(uri, tmp_path, "secret")
    wait_for_warning(caplog)
    assert not tracker.finish("FAILED", timeout_s=0)
    assert "takes nothing now" in caplog.text
    assert "secret@" not in caplog.text
    assert "secret@" not in "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert without_password("to http://a:b@c/d and e@f") == "to http://***@c/d and e@f"
