"""`sync-metrics` as users run it."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.commands import call
from tests.tracking.recorded import DELIVERY_S, history, only_run, open_tracker

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
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ended = call("sync-metrics", "--tracking-uri", uri, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == {str(spool): {"sent": 4, "left": 0} for spool in spools}
    assert ended.err.count("4 entries sent, 0 remain") == 2
    for key, spool in zip(("one", "two"), spools, strict=True):
        run = only_run(uri, key)
        assert run.info.status == "FINISHED" and not spool.exists()
        assert history(uri, run, "loss/main") == [(1, 0.1), (2, 0.2)]
    again = call("sync-metrics", "--tracking-uri", uri, folder=tmp_path)
    assert again.code == 0 and "no spool has entries to send" in again.err


def test_a_server_that_is_away_ends_with_3_and_the_spool_stays(tmp_path: Path) -> None:
    spool = left_behind(tmp_path, "one")
    ended = call("sync-metrics", spool, "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert (
        ended.code == 3
        and "Fix: start the server, then run the same command again" in ended.err
        and spool.exists()
    )
    assert "StoreError" in ended.err and "0 entries sent, 4 remain" in ended.err


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.tracking.delivery._REPORT_S", 0.5)
    spool = left_behind(tmp_path, "one")
    ended = call("sync-metrics", spool, "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert "one-" in ended.err and ": 0 sent, 4 buffered" in ended.err


def test_one_time_limit_holds_for_all_spools(tmp_path: Path) -> None:
    for number in range(4):
        left_behind(tmp_path, f"job{number}")
    start_s = time.monotonic()
    ended = call("sync-metrics", "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert ended.code == 3 and ended.err.count("4 remain") == 4
    assert time.monotonic() - start_s < 6


def test_the_spool_of_a_running_job_is_left_to_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    behind = left_behind(tmp_path, "behind")
    running = open_tracker(AWAY, tmp_path / "scratch" / "tracking", "running")
    ended = call("sync-metrics", "--tracking-uri", uri, "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    answers = json.loads(ended.out)
    assert answers.pop(str(behind)) == {"sent": 4, "left": 0}
    ((path, answer),) = answers.items()
    assert f"the running job of process {os.getpid()} on " in answer["left_out"]
    alone = call("sync-metrics", path, "--tracking-uri", uri, folder=tmp_path)
    assert alone.code == 2 and "is using this spool" in alone.err
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


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = call("sync-metrics", tmp_path / "typo", folder=tmp_path)
    assert ended.code == 2 and "expected a spool or a folder of spools, got neither" in ended.err


def test_a_spool_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = call("sync-metrics", tmp_path / "no.jsonl", folder=tmp_path)
    assert ended.code == 2 and "expected a spool or a folder of spools, got neither" in ended.err


def test_another_file_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    ended = call("sync-metrics", tmp_path / "notes.txt", folder=tmp_path)
    assert ended.code == 2 and "expected a spool" in ended.err
