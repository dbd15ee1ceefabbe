"""The delivery to MLflow servers that are unreachable, start later, or refuse."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from adapt.errors import JobError
from adapt.platforms import local_stack
from adapt.platforms.local_stack import free_ports, mlflow_server
from adapt.tracking.sync import deliver_spool
from storage.retry import Retry
from storage.uris import without_password
from tests.tracking.recorded import (
    DELIVERY_S,
    history,
    new_database,
    only_run,
    open_tracker,
    wait_for_warning,
    wait_until_delivered,
)


@pytest.mark.slow
def test_broken_artifact_store_does_not_stop_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapt.tracking.delivery._RETRY", Retry(longest_wait_s=0.05))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "file").write_text("no folder")
    MlflowClient(tracking_uri=uri).create_experiment("streets", f"file:{tmp_path}/file/below")
    tracker = open_tracker(uri, tmp_path / "spool", "broken")
    tracker.log_text("hello", "a.txt")
    tracker.log_metrics({"loss": 1.0}, 1)
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(uri, "broken")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})
    assert "MLflow refuses text a.txt, which is skipped: " in caplog.text
    assert tracker.delivered == 3


@pytest.mark.slow
def test_server_that_comes_later_gets_everything_once_in_order(
    absent_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "adapt.tracking.delivery")
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
    assert caplog.text.count("training continues and metrics are buffered in") == 1
    assert "is reachable again" in caplog.text


@pytest.mark.slow
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
    assert f"has not received 1003 entries; they are buffered in {spool}" in caplog.text
    assert f"`segadapt sync-metrics {spool}`" in caplog.text

    assert deliver_spool(spool, sqlite_uri, DELIVERY_S) == (1003, 0)
    run = only_run(sqlite_uri, "absent")
    assert run.info.status == "FINISHED"
    assert history(sqlite_uri, run, "loss") == [(step, step) for step in range(1000)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("server", ["mlflow_uri", "absent_uri"])
def test_only_the_tracker_s_thread_talks_to_the_network(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = request.getfixturevalue(server)
    connect, threads = socket.socket.connect, set()

    def recorded(self: socket.socket, address: Any) -> None:
        threads.add(threading.current_thread().name)
        connect(self, address)

    monkeypatch.setattr("socket.socket.connect", recorded)
    tracker = open_tracker(uri, tmp_path, f"threads-{server}")
    for step in range(20):
        tracker.log_metrics({"loss": step}, step)
        tracker.log_tags({"step": step})
        tracker.undelivered()
        time.sleep(0.05)
    tracker.finish("FINISHED", DELIVERY_S if server == "mlflow_uri" else 1)
    assert threads == {"tracker"}


def test_full_disk_stops_no_figures(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adapt.tracking.spool.os.write", refuse)
    tracker = open_tracker(sqlite_uri, tmp_path, "full")
    for step in range(100):
        tracker.log_metrics({"loss": step}, step)
    (spool,) = tmp_path.glob("*.jsonl")
    assert spool.stat().st_size == 0
    assert tracker.finish("FINISHED", DELIVERY_S)
    run = only_run(sqlite_uri, "full")
    assert run.info.status == "FINISHED"
    assert history(sqlite_uri, run, "loss") == [(step, step) for step in range(100)]


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "cure"),
    [
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (401, "You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, "Permission denied", "the right to edit"),
        (404, "<html>nginx</html>", "correct the path"),
        (500, "oops", "start the server"),
        (200, "<html>please log in</html>", "correct the path"),
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
    monkeypatch.setattr("adapt.tracking.delivery._RETRY", Retry(longest_wait_s=0.1))
    with answering(status, body) as uri:
        tracker = open_tracker(uri, tmp_path, "closed")
        tracker.log_metrics({"loss": 1.0}, 1)
        wait_for_warning(caplog)
        time.sleep(0.5)
        assert not tracker.finish("FAILED", timeout_s=0.2)
    assert caplog.text.count("training continues and metrics are buffered in") == 1
    assert cure in caplog.text
    assert tracker.pending == 3


@pytest.mark.slow
def test_deleted_experiment_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.create_experiment("streets"))
    tracker = open_tracker(uri, tmp_path / "spool", "deleted")
    wait_for_warning(caplog)
    assert not tracker.finish("FAILED", timeout_s=0)
    assert "Fix: restore the experiment, which was deleted" in caplog.text


def test_unwritable_database_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").mkdir()
    tracker = open_tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "spool", "folder")
    wait_for_warning(caplog)
    assert not tracker.finish("FAILED", timeout_s=0)
    assert "Fix: make the database's folder writable" in caplog.text


def test_passwords_never_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://me:secret@127.0.0.1:{free_ports(1)[0]}"
    tracker = open_tracker(uri, tmp_path, "secret")
    wait_for_warning(caplog)
    assert not tracker.finish("FAILED", timeout_s=0)
    assert "training continues and metrics are buffered in" in caplog.text
    assert "secret@" not in caplog.text
    assert "secret@" not in "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert without_password("to http://a:b@c/d and e@f") == "to http://***@c/d and e@f"


def test_deliver_spool_wants_a_spool(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"kind": "metrics"}\n')
    for name in ("a.jsonl", "missing.jsonl"):
        with pytest.raises(JobError, match=rf"{name}: expected a spool"):
            deliver_spool(tmp_path / name, "sqlite:///x.db", 1)


def test_the_end_tells_its_wait_and_a_stop_shortens_it(
    absent_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("adapt.tracking.delivery._REPORT_S", 0.3)
    tracker = open_tracker(absent_uri, tmp_path, "stopped")
    start_s, calls = time.monotonic(), []

    def limit_s() -> float:
        calls.append(time.monotonic() - start_s)
        return 0.1 if calls[-1] > 0.5 else 60

    assert not tracker.finish("FINISHED", 60, limit_s=limit_s)
    assert 0.5 < time.monotonic() - start_s < 2 and len(calls) > 2
    assert f"waiting for MLflow at {absent_uri}: 0 entries sent, 2 buffered" in caplog.text


def test_an_mlflow_that_fails_is_waited_for_a_minute_only(
    absent_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("adapt.tracking.delivery._FAILING_WAIT_S", 0.5)
    tracker = open_tracker(absent_uri, tmp_path, "failing")
    wait_for_warning(caplog)
    start_s = time.monotonic()
    assert not tracker.finish("FINISHED", 300)
    assert time.monotonic() - start_s < 2


@pytest.mark.slow
def test_an_mlflow_that_fails_now_and_then_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each entry fails once: the minute counts from the last one that MLflow took."""
    monkeypatch.setattr("adapt.tracking.delivery._FAILING_WAIT_S", 1.5)
    monkeypatch.setattr("adapt.tracking.delivery._LAST_WAIT_S", 0.5)
    uri, sent, failed = new_database(tmp_path / "runs"), MlflowClient.log_text, set[str]()

    def log_text(client: MlflowClient, run_id: str, text: str, artifact_file: str) -> None:
        if artifact_file not in failed:
            failed.add(artifact_file)
            raise MlflowException("come again")
        sent(client, run_id, text, artifact_file)

    monkeypatch.setattr(MlflowClient, "log_text", log_text)
    monkeypatch.setattr("adapt.tracking.delivery.Delivery._is_hopeless", lambda *_given: False)
    tracker = open_tracker(uri, tmp_path / "spool", "now and then")
    for number in range(8):
        tracker.log_text("a", f"{number}.txt")
        tracker.log_tags({"a": number})
    start_s = time.monotonic()
    assert tracker.finish("FINISHED", 60)
    assert time.monotonic() - start_s > 3
