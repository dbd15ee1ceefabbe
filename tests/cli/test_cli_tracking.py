"""`sync-metrics` as users run it."""

import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt.tracking.sync import server_of
from storage.uris import without_user
from tests.commands import call
from tests.tracking.recorded import DELIVERY_S, history, new_database, only_run, open_tracker

AWAY = "http://127.0.0.1:9"


def left_behind(folder: Path, job_key: str) -> Path:
    """The spool of a job whose server was away."""
    tracker = open_tracker(AWAY, folder / "scratch" / "tracking", job_key)
    for step in (1, 2):
        tracker.log_metrics({"loss/main": step / 10}, step)
    assert not tracker.finish("FINISHED", 0.1)
    (spool,) = (folder / "scratch" / "tracking").glob(f"{job_key}-*.jsonl")
    return spool


def test_what_jobs_left_behind_is_sent_once(tmp_path: Path) -> None:
    spools = [left_behind(tmp_path, key) for key in ("one", "two")]
    uri = new_database(tmp_path)
    ended = call("sync-metrics", "--tracking-uri", uri, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    answer = {"sent": 4, "left": 0, "tracking_uri": uri}
    assert json.loads(ended.out) == {str(spool): answer for spool in spools}
    assert ended.err.count(f"sending to MLflow at {uri}") == 2
    assert ended.err.count("4 entries sent, 0 remain") == 2
    for key, spool in zip(("one", "two"), spools, strict=True):
        run = only_run(uri, key)
        assert run.info.status == "FINISHED" and not spool.exists()
        assert history(uri, run, "loss/main") == [(1, 0.1), (2, 0.2)]
    again = call("sync-metrics", "--tracking-uri", uri, folder=tmp_path)
    assert again.code == 0 and "no spool has entries to send" in again.err


@pytest.mark.slow
def test_a_server_that_is_away_ends_with_3_and_the_spool_stays(tmp_path: Path) -> None:
    spool = left_behind(tmp_path, "one")
    ended = call("sync-metrics", spool, "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert (
        ended.code == 3
        and "Fix: start the server, then run the same command again" in ended.err
        and spool.exists()
    )
    assert "StoreError" in ended.err and "0 entries sent, 4 remain" in ended.err


@pytest.mark.slow
def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.tracking.delivery._REPORT_S", 0.5)
    spool = left_behind(tmp_path, "one")
    ended = call("sync-metrics", spool, "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert "one-" in ended.err and ": 0 sent, 4 buffered" in ended.err


@pytest.mark.slow
def test_one_time_limit_holds_for_all_spools(tmp_path: Path) -> None:
    for number in range(4):
        left_behind(tmp_path, f"job{number}")
    start_s = time.monotonic()
    ended = call("sync-metrics", "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert ended.code == 3 and ended.err.count("4 remain") == 4
    assert time.monotonic() - start_s < 6


def test_the_spool_of_a_running_job_is_left_to_it(tmp_path: Path) -> None:
    uri = new_database(tmp_path)
    behind = left_behind(tmp_path, "behind")
    running = open_tracker(AWAY, tmp_path / "scratch" / "tracking", "running")
    ended = call("sync-metrics", "--tracking-uri", uri, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    answers = json.loads(ended.out)
    assert answers.pop(str(behind)) == {"sent": 4, "left": 0, "tracking_uri": uri}
    ((path, answer),) = answers.items()
    assert "run town is being trained already" in answer["left_out"]
    assert f"by process {os.getpid()} on " in answer["left_out"]
    alone = call("sync-metrics", path, "--tracking-uri", uri, folder=tmp_path)
    assert alone.code == 2 and "run town is being trained already" in alone.err
    assert not running.finish("KILLED", 0)
    assert call("sync-metrics", path, "--tracking-uri", uri, folder=tmp_path).code == 0


def test_a_job_that_ended_elsewhere_keeps_its_status(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = open_tracker(AWAY, tmp_path / "scratch" / "tracking", "moved")
    first.log_metrics({"loss/main": 0.1}, 1)
    first.log_tags({"gpu": "old", "host": "a"})
    assert not first.finish("FAILED", 0.1, "out of memory")
    elsewhere = open_tracker(uri, tmp_path / "elsewhere", "moved")
    elsewhere.log_metrics({"loss/main": 0.2}, 2)
    elsewhere.log_tags({"gpu": "new"})
    assert elsewhere.finish("FINISHED", DELIVERY_S)
    assert call("sync-metrics", "--tracking-uri", uri, folder=tmp_path).code == 0
    run = only_run(uri, "moved")
    assert run.info.status == "FINISHED" and "segadapt.error" not in run.data.tags
    assert (run.data.tags["gpu"], run.data.tags["host"]) == ("new", "a")
    assert history(uri, run, "loss/main") == [(1, 0.1), (2, 0.2)]


def command_of(warning: str) -> list[str]:
    """The arguments of the `sync-metrics` that a job's warning prints."""
    return shlex.split(warning.rpartition("`segadapt ")[2].rpartition("`")[0])


@pytest.fixture
def undelivered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Leave the spool of a job whose server could not be asked."""

    def leave(folder: Path, uri: str) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr("adapt.tracking.delivery.Delivery.run", lambda _self: None)
            tracker = open_tracker(uri, folder / "scratch" / "tracking", folder.name)
            tracker.log_metrics({"loss/main": 0.5}, 1)
            assert not tracker.finish("FINISHED", 0)
        (spool,) = (folder / "scratch" / "tracking").glob("*.jsonl")
        return spool

    return leave


@pytest.mark.parametrize("elsewhere", [None, AWAY])
def test_the_printed_command_sends_to_the_jobs_own_server_from_any_folder(
    mlflow_uri: str,
    tmp_path: Path,
    undelivered: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    elsewhere: str | None,
) -> None:
    other, job = tmp_path / "elsewhere", tmp_path / f"anywhere-{elsewhere is None}"
    other.mkdir()
    spool = undelivered(job, mlflow_uri)
    environment = {} if elsewhere is None else {"MLFLOW_TRACKING_URI": elsewhere}
    ended = call(*command_of(caplog.text), folder=other, environment=environment)
    assert ended.code == 0, ended.err
    assert f"sending to MLflow at {mlflow_uri}" in ended.err and not spool.exists()
    assert history(mlflow_uri, only_run(mlflow_uri, job.name), "loss/main") == [(1, 0.5)]
    assert not list(other.glob("**/*.db"))


def test_the_jobs_own_database_file_is_made_beside_its_runs_alone(
    tmp_path: Path, undelivered: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    runs, other = tmp_path / "runs", tmp_path / "other"
    other.mkdir()
    spool = undelivered(tmp_path / "embedded", f"sqlite:///{runs}/mlflow.db")
    gone = call(*command_of(caplog.text), folder=other)
    assert gone.code == 2 and "expected MLflow's database file, got no file" in gone.err
    assert spool.exists() and not runs.exists()
    runs.mkdir()
    assert call(*command_of(caplog.text), folder=other).code == 0
    assert only_run(f"sqlite:///{runs}/mlflow.db", "embedded").info.status == "FINISHED"
    assert not list(other.glob("**/*.db"))


def test_no_database_is_made_where_another_is_named(
    tmp_path: Path, undelivered: Callable[..., Path]
) -> None:
    spool = undelivered(tmp_path / "named", AWAY)
    uri = f"sqlite:///{tmp_path}/typo.db"
    ended = call("sync-metrics", spool, "--tracking-uri", uri, folder=tmp_path)
    assert ended.code == 2 and "typo.db: expected MLflow's database file" in ended.err
    assert spool.exists() and not (tmp_path / "typo.db").exists()


def test_a_wrong_uri_is_refused_for_a_folder_too(tmp_path: Path) -> None:
    spool = left_behind(tmp_path, "one")
    for uri, text in (
        (f"sqlite:///{tmp_path}/typo.db", "typo.db: expected MLflow's database file, got no file"),
        ("typo.db", "--tracking-uri: expected a URI of http, https, sqlite,"),
        ("typo.db", "Fix: write sqlite:///typo.db for a database file"),
        ("sqlite://typo.db", "Fix: write sqlite:///typo.db for a database file"),
        ("localhost:5000", "http://HOST:PORT for a server"),
        ("/srv/mlruns", "--tracking-uri: expected a URI of"),
    ):
        for where in (spool, spool.parent):
            ended = call("sync-metrics", where, "--tracking-uri", uri, folder=tmp_path)
            assert ended.code == 2 and text in ended.err, (uri, ended.err)
    assert spool.exists()


def test_a_folder_whose_spools_cannot_be_sent_ends_with_3(
    tmp_path: Path, undelivered: Callable[..., Path]
) -> None:
    spool = undelivered(tmp_path / "lost", f"sqlite:///{tmp_path}/gone/mlflow.db")
    (spool.parent / "foreign.jsonl").write_text("{}\n")
    ended = call("sync-metrics", spool.parent, folder=tmp_path)
    assert ended.code == 3 and "skipped: " in ended.err and spool.exists()
    assert f"{spool}: expected entries that can be sent, got the faults above" in ended.err
    spool.unlink()
    assert call("sync-metrics", spool.parent, folder=tmp_path).code == 0


def test_the_printed_command_names_the_whole_path(
    tmp_path: Path, undelivered: Callable[..., Path]
) -> None:
    spool = undelivered(tmp_path / "near", AWAY)
    name = spool.relative_to(tmp_path)
    ended = call("sync-metrics", name, "--tracking-uri", AWAY, "--timeout-s", 1, folder=tmp_path)
    assert f"`segadaptsync-metrics{spool}`" in "".join(ended.err.split())


def rewritten(spool: Path, change: Callable[[dict[str, Any]], object]) -> None:
    entries = [json.loads(line) for line in spool.read_text().splitlines()]
    for entry in entries:
        change(entry)
    spool.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_a_spool_of_an_earlier_version_goes_where_the_user_says(
    tmp_path: Path, undelivered: Callable[..., Path]
) -> None:
    spool, uri = undelivered(tmp_path / "earlier", AWAY), new_database(tmp_path / "there")
    rewritten(spool, lambda entry: entry.pop("uri", None))
    unsaid = call("sync-metrics", spool, folder=tmp_path)
    assert (
        unsaid.code == 2
        and "expected a spool that names the MLflow server of its job" in unsaid.err
    )
    said = call(
        "sync-metrics", folder=tmp_path / "earlier", environment={"MLFLOW_TRACKING_URI": uri}
    )
    assert said.code == 0, said.err
    assert only_run(uri, "earlier").info.status == "FINISHED"


@pytest.mark.parametrize("change", [{"kind": "hologram"}, {"config": None}])
def test_a_spool_of_a_later_version_stays_as_it_is(
    tmp_path: Path, undelivered: Callable[..., Path], change: dict[str, Any]
) -> None:
    spool, uri = undelivered(tmp_path / "later", AWAY), new_database(tmp_path / "there")
    part = "values" if "kind" in change else "config"
    rewritten(spool, lambda entry: entry.update(change) if part in entry else None)
    before = spool.read_bytes()
    ended = call("sync-metrics", spool, "--tracking-uri", uri, folder=tmp_path)
    assert ended.code == 2 and "expected " in ended.err and "Traceback" not in ended.err
    assert spool.read_bytes() == before


def test_no_password_is_in_a_spool_and_that_of_the_environment_is_used(tmp_path: Path) -> None:
    spool = tmp_path / "a.jsonl"
    start = {"kind": "start", "time_ms": 1, "job_key": "a", "run_name": "a", "resume_step": None}
    start |= {"config": {"experiment": "a"}, "uri": without_user("https://me:secret@host/mlflow")}
    spool.write_text(json.dumps(start) + "\n")
    assert "secret" not in spool.read_text() and "me" not in start["uri"]
    assert server_of(spool, None, None) == "https://host/mlflow"
    assert server_of(spool, None, "http://other") == "https://host/mlflow"
    secret = "https://you:key@host/mlflow"
    assert server_of(spool, None, secret) == secret
    assert server_of(spool, "http://asked", secret) == "http://asked"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = call("sync-metrics", tmp_path / "typo", folder=tmp_path)
    assert ended.code == 2 and "expected a spool or a folder of spools, got neither" in ended.err
    assert "Fix: give the path that the job's last warning names" in ended.err


def test_a_spool_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = call("sync-metrics", tmp_path / "no.jsonl", folder=tmp_path)
    assert ended.code == 2 and "expected a spool or a folder of spools, got neither" in ended.err


def test_another_file_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    ended = call("sync-metrics", tmp_path / "notes.txt", folder=tmp_path)
    assert ended.code == 2 and "expected a spool" in ended.err
