"""A whole job: trains, evaluates, saves, leaves its best."""

import hashlib
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from adapt.places import Place
from adapt.spec.loading import load_spec
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.run import allow_open_files
from adapt.trainer.score import evaluate_checkpoint
from tests.trainer.jobs import job_of, last_weights, run


@pytest.mark.slow
def test_a_job_trains_evaluates_and_leaves_its_best(tiny_job: dict[str, Any], place: Place) -> None:
    job = job_of(tiny_job)
    outcome, seen = run(job, place)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert outcome.step == 6 and outcome.best is not None
    assert 0 <= outcome.metrics["miou"] <= 1 and outcome.best.score >= outcome.metrics["miou"]
    folder = Path(job.checkpoint.uri) / "tiny"
    evaluation = evaluate_checkpoint(job, place, str(folder / outcome.best.name))
    assert evaluation.score.metrics()["miou"] == outcome.best.score


@pytest.mark.slow
def test_the_platform_keeps_the_best_weights_and_its_job_is_named(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    job, out = job_of(tiny_job), tmp_path / "model"
    there = {"job": "town-1", "platform": "somewhere", "checkpoints_at": "s3://bucket/runs"}
    outcome, _ = run(job, replace(place, model_dir=out, **there))
    assert outcome.best is not None
    kept = (out / "weights.safetensors").read_bytes()
    assert hashlib.sha256(kept).hexdigest() == outcome.best.sha256
    chosen_by = job.evaluate.model_copy(update={"select_by": "miou"})
    assert load_spec(out / "spec.yaml") == job.model_copy(update={"evaluate": chosen_by})
    report = (out / "report.html").read_bytes()
    assert report == (Path(job.checkpoint.uri) / "tiny" / "report.html").read_bytes()
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (found,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert found.data.tags["segadapt.job"] == "town-1"
    assert found.data.tags["segadapt.platform"] == "somewhere"
    best_uri = f"s3://bucket/runs/tiny/{outcome.best.name}/weights.safetensors"
    assert found.data.tags["best_checkpoint_uri"] == best_uri


def test_without_an_evaluation_the_platform_keeps_the_last_weights(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    del tiny_job["validation"]
    job, out = job_of(tiny_job), tmp_path / "model"
    run(job, replace(place, model_dir=out))
    kept = load_file(out / "weights.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in last_weights(job).items())


@pytest.mark.slow
def test_a_finished_job_is_done_at_once_and_fresh_starts_over(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job = job_of(tiny_job)
    first, _ = run(job, place)
    outcome, seen = run(job, place)
    assert outcome == first and not seen
    _, seen = run(job, place, fresh=True)
    assert len(seen) == 6


def test_a_job_may_open_as_many_files_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] // 2, before[1]))
    try:
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
