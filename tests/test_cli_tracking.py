"""`sync-metrics` as users run it."""

import json
from pathlib import Path

from tests.commands import call
from tests.tracking import history, only_run, open_tracker

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
    assert json.loads(ended.out) == {str(spool): True for spool in spools}
    for key, spool in zip(("one", "two"), spools, strict=True):
        run = only_run(uri, key)
        assert run.info.status == "FINISHED" and not spool.exists()
        assert history(uri, run, "loss/main") == [(1, 0.1), (2, 0.2)]
    again = call("sync-metrics", "--tracking-uri", uri, folder=tmp_path)
    assert again.code == 0 and "nothing waits" in again.err


def test_a_server_that_is_away_ends_with_3_and_the_spool_stays(tmp_path: Path) -> None:
    spool = left_behind(tmp_path, "one")
    ended = call("sync-metrics", spool, "--tracking-uri", AWAY, "--timeout-s", 2, folder=tmp_path)
    assert ended.code == 3 and "see that it is up" in ended.err and spool.exists()


def test_a_spool_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = call("sync-metrics", tmp_path / "no.jsonl", folder=tmp_path)
    assert ended.code == 2 and "there is no such spool" in ended.err


def test_another_file_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    ended = call("sync-metrics", tmp_path / "notes.txt", folder=tmp_path)
    assert ended.code == 2 and "expected a spool" in ended.err
