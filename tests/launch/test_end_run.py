"""MLflow hears how a job ended, also where no rank could report it."""

import json
import os
import signal
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from adapt.launch import supervisor
from adapt.launch.job_copy import read_job, write_job
from adapt.launch.rank_status import RankStatus
from adapt.launch.supervisor import end_run, launch
from adapt.launch.verdict import Verdict
from adapt.places import Place
from adapt.spec.loading import parse_spec
from adapt.trainer import tracked_run
from tests.chaos import descendants
from tests.commands import finish, start
from tests.conftest import tiny_values
from tests.launch.rank_scripts import wait_until
from tests.tiers import one_in


def test_telling_mlflow_of_a_stop_ends_within_the_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals_kept: None
) -> None:
    told = Event()

    def supervised(*given: Any) -> Verdict:
        os.kill(os.getpid(), signal.SIGTERM)
        return Verdict(75, "Interrupted", "not every rank ended in time")

    def slow(*_given: object) -> None:
        told.wait(30)

    monkeypatch.setattr(supervisor, "supervise", supervised)
    monkeypatch.setattr(supervisor, "end_run", slow)
    started_s = time.monotonic()
    assert launch(Place("local", {}, tmp_path, grace_s=2), []) == 75
    assert time.monotonic() - started_s < 10
    assert supervisor.still_busy(), "so `run` ends without waiting for MLflow"
    told.set()
    wait_until(lambda: not supervisor.still_busy(), timeout_s=10)


def test_the_job_reaches_the_supervisor_as_it_was_read(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    assert read_job(tmp_path) is None, "the spec itself may be wrong"
    job = parse_spec(tiny_job, "tiny")
    write_job(tmp_path, job)
    assert read_job(tmp_path) == job
    (tmp_path / "job.json").write_text((tmp_path / "job.json").read_text()[:100])
    assert read_job(tmp_path) is None, "half a file is what a full disk leaves"
    write_job(tmp_path / "no such folder", job)
    end_run(tmp_path, Place("local", {}, tmp_path), Verdict(2, "JobError", "of an unread spec"))


@pytest.mark.parametrize(
    ("kind", "code", "told"), [("RunInUse", 2, 0), ("LeaseLost", 75, 0), ("DataError", 4, 1)]
)
def test_a_run_that_another_job_trains_is_left_alone(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    code: int,
    told: int,
) -> None:
    ended: list[object] = []
    monkeypatch.setattr(tracked_run, "end_tracked_run", lambda *given, **_: ended.append(given))
    write_job(tmp_path, parse_spec(tiny_job, "tiny"))
    rank = RankStatus(0, 1, 0.0, code, kind, begun=True)
    (tmp_path / "rank-0.json").write_text(json.dumps(rank))
    end_run(tmp_path, Place("local", {}, tmp_path), Verdict(code, "Interrupted", "why"))
    assert len(ended) == told


REFUSALS = [(2, "JobError"), (3, "StoreError"), (4, "DataError")]


@pytest.mark.parametrize(("code", "kind"), REFUSALS)
@pytest.mark.parametrize("known", [False, True])
def test_a_start_that_is_refused_leaves_mlflow_alone_and_does_not_wait_for_it(
    tiny_job: dict[str, Any], tmp_path: Path, code: int, kind: str, known: bool
) -> None:
    write_job(tmp_path, parse_spec(tiny_job, "tiny"))
    (tmp_path / "rank-0.json").write_text(json.dumps(RankStatus(0, 1, 0.0, code, kind)))
    if known:
        (tmp_path / "runs/tiny").mkdir(parents=True)
        (tmp_path / "runs/tiny/JOB").write_text("key")
    end_run(tmp_path, Place("local", {}, tmp_path / "scratch"), Verdict(code, kind, "why"))
    assert not (tmp_path / "runs/mlflow.db").exists() and not (tmp_path / "scratch").exists()


def test_a_start_that_died_before_it_continued_a_run_leaves_one_that_ended_well(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    job = parse_spec(tiny_job, "tiny")
    place = Place("local", {}, tmp_path / "scratch")
    write_job(tmp_path, job)
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/JOB").write_text("key")
    died = Verdict(137, "Killed", "rank 0 died of SIGKILL")
    assert tracked_run.open_tracker(job, place, "key").finish("FINISHED", 120)
    end_run(tmp_path, place, died)
    assert ended_as(tmp_path / "runs/mlflow.db") == ("FINISHED", None)
    rank = RankStatus(0, 1, 0.0, begun=True)
    (tmp_path / "rank-0.json").write_text(json.dumps(rank))
    end_run(tmp_path, place, died)
    why = "Killed: rank 0 died of SIGKILL"
    assert ended_as(tmp_path / "runs/mlflow.db") == ("FAILED", why)
    (tmp_path / "rank-0.json").unlink()
    end_run(tmp_path, place, died._replace(kind="Bug"))
    assert ended_as(tmp_path / "runs/mlflow.db") == ("FAILED", f"Bug{why[6:]}")


def ended_as(database: Path) -> tuple[str, str | None]:
    """The status of the only run, and why it failed."""
    client = MlflowClient(f"sqlite:///{database}")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    return run.info.status, run.data.tags.get("segadapt.error")


@pytest.mark.nightly
@pytest.mark.cold_start
def test_a_restart_that_is_refused_leaves_a_finished_run_as_it_is(
    tiny_uri: str, tmp_path: Path
) -> None:
    values = tiny_values(tiny_uri, "runs")
    values["train"]["steps"] = 2
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    ended = finish(start("run", "tiny.yaml", folder=tmp_path))
    assert ended.code == 0, ended.err
    refused = finish(start("run", "tiny.yaml", "--set", "seed=7", folder=tmp_path))
    assert refused.code == 2 and "JobError seed: expected " in refused.err, refused.err
    assert "MLflow" not in refused.err
    assert ended_as(tmp_path / "runs/mlflow.db") == ("FINISHED", None)


@pytest.mark.slow
@pytest.mark.cold_start
@pytest.mark.parametrize("victim", one_in(2, [0, 1]))
def test_a_killed_rank_is_a_failed_run_in_mlflow(
    victim: int, tiny_uri: str, tmp_path: Path
) -> None:
    values = tiny_values(tiny_uri, "runs")
    values["train"]["steps"] = 200
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    process = start("run", "tiny.yaml", "--processes", 2, folder=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            os.kill(rank_pid(process.pid, victim), signal.SIGKILL)
            break
    ended = finish(process)
    assert ended.code == 137 and "died of SIGKILL" in ended.err, ended.err
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert f"Killed: rank {victim} died of SIGKILL" in run.data.tags["segadapt.error"]


def rank_pid(supervisor: int, rank: int) -> int:
    """The process of a rank, from its environment."""
    for pid in descendants(supervisor):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return pid
    raise AssertionError(f"no rank {rank} below {supervisor}")


@pytest.mark.parametrize("grace_s", [15, pytest.param(60, marks=pytest.mark.nightly)])
def test_a_rank_that_does_not_stop_is_a_killed_run_in_mlflow(
    grace_s: int, tiny_uri: str, tmp_path: Path
) -> None:
    values = tiny_values(tiny_uri, "runs")
    values["train"]["steps"] = 200
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    environment = {"SEGADAPT_GRACE_S": str(grace_s)}
    process = start("run", "tiny.yaml", folder=tmp_path, environment=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            wait_until(lambda: has_run(tmp_path / "runs/mlflow.db"), 60)
            (child,) = descendants(process.pid)
            os.kill(child, signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            break
    begun_s = time.monotonic()
    ended = finish(process)
    assert ended.code == 75 and "not every rank ended within the grace" in ended.err, ended.err
    assert time.monotonic() - begun_s < grace_s, "the platform kills what is left after its grace"
    if grace_s < 60:  # a loaded machine may not reach MLflow in the seconds that are left
        return
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"


RUNS = "SELECT 1 FROM runs"


def has_run(database: Path) -> bool:
    """Return whether a rank has told MLflow of its run; making the tables may take longer than a
    stop."""
    with suppress(sqlite3.Error):
        return bool(sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute(RUNS).fetchone())
    return False


def test_only_nodes_that_see_the_run_tell_mlflow_how_it_ended(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    write_job(tmp_path, parse_spec(tiny_job, "tiny"))
    place = Place("local", {}, tmp_path / "scratch", node=1, num_nodes=2)
    end_run(tmp_path, place, Verdict(1, "Bug", "of a node whose folder is its own"))
    assert not (runs / "mlflow.db").exists() and not (runs / "tiny/JOB").exists()
    for node in (0, 1):
        verdict = Verdict(1, "Bug", f"of node {node}")
        end_run(tmp_path, replace(place, node=node), verdict)
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["segadapt.error"] == "Bug: of node 1"
