"""`sweep` as a user runs it: a preview, refusals, and a sweep that is killed, stopped, resumed."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from adapt.spec.loading import load_spec
from tests.cli.conftest import refused, write_spec
from tests.commands import call, finish, start
from tests.conftest import tiny_values

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.norm": {"choices": ["frozen_affine", "frozen"]},
}
PLAIN = ("--sampler", "random", "--pruner", "none")
BY_AGREEMENT = ("--set", "evaluate.select_by=ensemble_agreement")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    return write_space(tmp_path, SPACE)


def write_space(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "space.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "space.yaml"


def test_the_preview_shows_space_first_points_and_cost(
    spec: Path, space: Path, tmp_path: Path
) -> None:
    price = ("--set", "report.price_per_hour=2", "--max-hours", "3")
    ended = call("sweep", spec, "--space", space, "--dry-run", *price, folder=tmp_path)
    assert ended.code == 0, ended.err
    for said in ("tiny-sweep: tiny by miou", "0.0001 to 0.01, log", "frozen_affine, frozen"):
        assert said in ended.err
    assert "at most 6.00 USD (--max-hours 3), by 2 a node an hour" in ended.err
    assert [line[:6] for line in ended.out.splitlines()] == [f"t{n:04d}:" for n in range(5)]
    assert not (tmp_path / "runs").exists()
    again = call("sweep", spec, "--space", space, "--dry-run", "--json", folder=tmp_path)
    assert len(json.loads(again.out)["first"]) == 5


def test_refusals_are_by_key(spec: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, {"optim.lrr": {"low": 1, "high": 2}})
    ended = call("sweep", spec, "--space", space, folder=tmp_path)
    refused(ended, 2, "space.yaml: optim.lrr: unknown key", "did you mean 'lr'")
    space = write_space(tmp_path, SPACE)
    ended = call("sweep", spec, "--space", space, "--max-cost", 5, folder=tmp_path)
    refused(ended, 2, "--max-cost: expected a price to count by")
    ended = call("sweep", spec, "--space", "no.yaml", folder=tmp_path)
    refused(ended, 2, "no.yaml: expected a file that can be read")
    ended = call("sweep", spec, "--space", space, "--sampler", "grid", folder=tmp_path)
    refused(ended, 2, "--sampler: expected a space that ends for grid, got optim.lr")
    unscored = ("--set", "validation=null")
    ended = call("sweep", spec, "--space", space, *unscored, folder=tmp_path)
    refused(ended, 2, "validation: expected a split that trials are scored on, got none")
    ended = call("sweep", spec, "--space", space, *BY_AGREEMENT, folder=tmp_path)
    refused(ended, 2, "evaluate.select_by: expected a score that compares runs")
    assert not (tmp_path / "runs").exists()


def wait_for_save(run: Path, process: Any, timeout_s: float = 900) -> None:
    end_s = time.monotonic() + timeout_s
    while not list(run.glob("step-*/manifest.json")):
        assert process.poll() is None, finish(process).err
        assert time.monotonic() < end_s, f"no checkpoint of {run}"
        time.sleep(0.1)


def short_job(uri: str, steps: int) -> dict[str, Any]:
    values = tiny_values(uri, "runs") | {"method": {"name": "source_only"}}
    values["train"] = {"steps": steps, "log_every_steps": steps}
    values["evaluate"] = {"every_steps": 10, "pictures": 0}
    values["report"] = {"enabled": False}
    return values


@pytest.mark.slow
def test_a_sweep_leaves_a_study_tracked_runs_and_the_best_spec(
    tiny_uri: str, space: Path, tmp_path: Path
) -> None:
    spec = write_spec(short_job(tiny_uri, 10), tmp_path)
    command = ("sweep", spec, "--space", space, *PLAIN, "--trials", "1")
    ended = finish(start(*command, "--json", folder=tmp_path), 600)
    assert ended.code == 0, ended.err
    check_study(tmp_path, json.loads(ended.out), trials=1, scored=[10])
    check_mlflow(tmp_path, json.loads(ended.out), trials=1)


@pytest.mark.nightly
def test_a_sweep_that_is_killed_and_stopped_ends_as_a_calm_one(
    tiny_uri: str, tmp_path: Path
) -> None:
    values = short_job(tiny_uri, 40)
    spec, space = write_spec(values, tmp_path), write_space(tmp_path, SPACE)
    command = ("sweep", spec, "--space", space, *PLAIN, "--trials", "3")
    killed = start(*command, folder=tmp_path)
    wait_for_save(tmp_path / "runs/tiny-t0000", killed)
    killed.kill()
    finish(killed)
    stopped = start(*command, folder=tmp_path)
    wait_for_save(tmp_path / "runs/tiny-t0001", stopped)
    stopped.send_signal(signal.SIGTERM)
    ended = finish(stopped, 900)
    assert ended.code == 75 and "the same command continues the sweep" in ended.err, ended.err
    ended = finish(start(*command, "--json", folder=tmp_path), 900)
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    check_study(tmp_path, answer, trials=3, scored=[10, 20, 30, 40])
    check_mlflow(tmp_path, answer, trials=3)
    job = load_spec(tmp_path / answer["best_spec"])
    assert job.name == "tiny-best" and (tmp_path / "runs/tiny-sweep/sweep.html").is_file()
    other = call(*command, "--set", "seed=7", folder=tmp_path)
    refused(other, 2, "seed: expected 1234, the value of the study tiny-sweep, got 7")


def check_study(folder: Path, answer: dict[str, Any], trials: int, scored: list[int]) -> None:
    study = optuna.load_study(
        study_name="tiny-sweep", storage=f"sqlite:///{folder}/runs/tiny-sweep/study.db"
    )
    assert [one.state.name for one in study.trials] == ["COMPLETE"] * trials
    assert [sorted(one.intermediate_values) for one in study.trials] == [scored] * trials
    for one in study.trials:
        best = json.loads((folder / f"runs/tiny-t{one.number:04d}/BEST.json").read_text())
        assert one.value == best["score"]
    assert answer["best"] == f"tiny-t{study.best_trial.number:04d}"
    rows = {row["run"]: row["score"] for row in answer["trials"]}
    assert len(rows) == trials and rows[answer["best"]] == max(rows.values())


def check_mlflow(folder: Path, answer: dict[str, Any], trials: int) -> None:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "tests"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("tiny-sweep")
    assert parent.info.status == "FINISHED"
    assert sorted(runs) == [f"tiny-t{number:04d}" for number in range(trials)]
    tags = {name: run.data.tags for name, run in runs.items()}
    assert {one["mlflow.parentRunId"] for one in tags.values()} == {parent.info.run_id}
    best = [name for name, one in tags.items() if one["segadapt.sweep_best"] == "true"]
    assert best == [answer["best"]] and parent.data.tags["segadapt.sweep_best"] == answer["best"]
    files = {one.path for one in client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "sweep.html"} <= files


def test_a_missing_optuna_is_named(
    spec: Path, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'optuna'", name="optuna")

    monkeypatch.setattr("adapt.cli.sweep._load", missing)
    ended = call("sweep", spec, "--space", space, folder=tmp_path)
    refused(ended, 2, "sweep: expected the package optuna, got none", "segadapt[sweep]")
