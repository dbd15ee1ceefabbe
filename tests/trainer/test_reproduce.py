"""A run's spec and fingerprints, and the differences here."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from adapt.data.packed.split_files import read_manifest
from adapt.places import Place
from adapt.trainer.environment import ENVIRONMENT, environment
from adapt.trainer.reproduce import reproduce
from storage.stores import Stores
from tests.tracking.recorded import new_database
from tests.trainer.jobs import job_of


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return new_database(tmp_path / "runs")


def tracked(uri: str, values: dict[str, Any], best: Path, then: dict[str, Any] | None) -> None:
    """A run in MLflow, as a job describes it."""
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("again"), run_name="town").info.run_id
    client.log_text(run, job_of(values).to_yaml(), "spec.yaml")
    if then is not None:
        client.log_text(run, json.dumps(then), ENVIRONMENT)
    for key, split in (("source", "train"), ("target", "train"), ("validation", "val")):
        manifest, _ = read_manifest(Stores().open(values[key]["uri"]), split)
        client.set_tag(run, f"segadapt.{key}", manifest.dataset_id)
    client.set_tag(run, "best_checkpoint_uri", str(best))
    client.set_tag(run, "best_checkpoint_sha256", "ab" * 32)


def test_where_nothing_differs_the_run_is_described_and_no_more(
    uri: str, tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    best = tmp_path / "weights.safetensors"
    best.write_bytes(b"weights")
    tracked(uri, tiny_job, best, environment())
    found = reproduce("town", tmp_path / "out", uri, place)
    assert found.differences == []
    assert found.spec_path.read_text() == job_of(tiny_job).to_yaml()
    record = json.loads(found.record_path.read_text())
    assert record["best"] == {"uri": str(best), "sha256": "ab" * 32}
    assert record["environment"]["packages.torch"] == environment()["packages.torch"]
    assert len(record["data"]["source"]["fingerprint"]) == 64


def test_versions_data_and_weights_that_differ_are_named(
    uri: str, tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    tracked(uri, tiny_job, tmp_path / "gone.safetensors", {**environment(), "python": "2.7.18"})
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("again").experiment_id])
    client.set_tag(run.info.run_id, "segadapt.validation", "cd" * 32)
    found = reproduce("again", tmp_path / "out", uri, place)
    said = [str(one) for one in found.differences]
    assert [one.split(" ")[0] for one in said] == ["python:", "validation", "best"]
    assert said[0].startswith("python: 2.7.18 then, 3.")
    assert f": {'cd' * 32} then, " in said[1]
    assert said[2].endswith("gone.safetensors): there then, missing now")


def test_data_that_cannot_be_read_and_versions_that_were_not_kept_are_named(
    uri: str, tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    tracked(uri, tiny_job, tmp_path / "gone", None)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("again").experiment_id])
    moved = {**tiny_job, "validation": {**tiny_job["validation"], "uri": str(tmp_path / "moved")}}
    client.log_text(run.info.run_id, job_of(moved).to_yaml(), "spec.yaml")
    found = reproduce(run.info.run_id, tmp_path / "out", uri, place)
    said = [str(one) for one in found.differences]
    assert said[0] == "environment: not recorded then, known now"
    assert said[1].startswith("validation (") and "unreadable (" in said[1]
