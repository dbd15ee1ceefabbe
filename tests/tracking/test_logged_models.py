"""The kept checkpoints as LoggedModels of MLflow 3, and the best one in its registry."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import verify_rest_response
from requests import Response

from adapt.tracking.logged_models import TrackedModel
from adapt.tracking.tracker import Tracker
from tests.tracking.recorded import (
    DELIVERY_S,
    history,
    new_database,
    only_run,
    open_tracker,
    wait_for_warning,
)

TOWN = ("town/val", "ab" * 16)
HEADER = {
    "segadapt.classes": json.dumps([{"name": "road"}, {"name": "car"}]),
    "segadapt.lineage": json.dumps({"version": "0.1.0", "step": 3, "data": {"source": "cd" * 16}}),
}


@pytest.fixture(params=["mlflow", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return new_database(tmp_path / "runs")
    return str(request.getfixturevalue("mlflow_uri"))


def checkpoint(step: int, **more: Any) -> TrackedModel:
    name = f"step-{step:08d}"
    weights_uri = f"s3://bucket/town/{name}/weights.safetensors"
    return TrackedModel(name, weights_uri, f"{step:064x}", step, HEADER, {}, TOWN, **more)


def save(tracker: Tracker, step: int, kept: Iterable[int], miou: float | None = None) -> None:
    """An evaluation, where there was one, and the checkpoint that follows it."""
    if miou is not None:
        scores = {"validation/miou": miou, "validation/iou/road": 1.0, "train/loss": 2.0}
        tracker.log_metrics(scores, step)
    tracker.log_model(checkpoint(step), [checkpoint(one).name for one in kept])


def models_of(uri: str, job_key: str) -> list[LoggedModel]:
    run = only_run(uri, job_key).info
    client = MlflowClient(tracking_uri=uri)
    found = client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'")
    return sorted(found, key=lambda one: str(one.name))


@pytest.mark.slow
def test_the_kept_checkpoints_are_models_with_the_scores_of_their_step(
    uri: str, tmp_path: Path
) -> None:
    tracker = open_tracker(uri, tmp_path / "spool", "kept")
    save(tracker, 3, [3], 0.25)
    save(tracker, 4, [3, 4])
    save(tracker, 6, [4, 6], 0.5)
    assert tracker.finish("FINISHED", DELIVERY_S)
    four, six = models_of(uri, "kept")
    assert (four.name, six.name) == ("step-00000004", "step-00000006")
    assert not four.metrics and four.status == six.status == "READY"
    assert six.params == {"uri": checkpoint(6).uri, "sha256": f"{6:064x}", "step": "6"}
    assert six.tags["segadapt.classes"] == "road, car"
    assert six.tags["segadapt.data.source"] == "cd" * 16
    assert six.tags["mlflow.model.isExternal"] == "true"
    assert six.metrics is not None
    (score,) = six.metrics
    assert (score.key, score.value, score.step) == ("validation/miou", 0.5, 6)
    assert (score.dataset_name, score.dataset_digest) == TOWN
    assert history(uri, only_run(uri, "kept"), "validation/miou") == [(3, 0.25), (6, 0.5)]
    experiment = only_run(uri, "kept").info.experiment_id
    best = MlflowClient(uri).search_logged_models(
        [experiment],
        "metrics.`validation/miou` > 0.4 AND params.step = '6'",
        datasets=[{"dataset_name": TOWN[0], "dataset_digest": TOWN[1]}],
        order_by=[{"field_name": "metrics.validation/miou", "ascending": False}],
    )
    assert six.model_id in {one.model_id for one in best}


@pytest.mark.slow
def test_what_is_sent_again_is_there_once(uri: str, tmp_path: Path) -> None:
    """As after a kill before the mark, on this disk and on another one."""
    for start in ("1", "2"):
        tracker = open_tracker(uri, tmp_path / start, "again", register_as="again-net")
        save(tracker, 3, [3], 0.25)
        save(tracker, 6, [3, 6], 0.5)
        tracker.register_best(checkpoint(6).uri, f"{6:064x}", {"miou": 0.5})
        assert tracker.finish("FINISHED", DELIVERY_S)
    assert [one.name for one in models_of(uri, "again")] == ["step-00000003", "step-00000006"]
    assert [len(one.metrics or ()) for one in models_of(uri, "again")] == [1, 1]
    assert len(MlflowClient(uri).search_model_versions("name = 'again-net'")) == 1


@pytest.mark.parametrize("killed_in", ["log_model_artifacts", "log_batch", "finalize_logged_model"])
def test_a_model_that_a_kill_left_half_made_is_completed(
    killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    uri = new_database(tmp_path / "runs")
    call = getattr(MlflowClient, killed_in)
    failed: list[str] = []

    def once_killed(self: MlflowClient, *given: Any, **named: Any) -> Any:
        of_models = killed_in != "log_batch" or any(one.model_id for one in named["metrics"])
        if of_models and not failed:
            failed.append(killed_in)
            if killed_in == "log_batch":  # it arrived, its answer did not
                call(self, *given, **named)
            raise ConnectionResetError("cut off")
        return call(self, *given, **named)

    monkeypatch.setattr(MlflowClient, killed_in, once_killed)
    monkeypatch.setattr("adapt.tracking.delivery._LAST_WAIT_S", 0.05)
    tracker = open_tracker(uri, tmp_path / "spool", "killed")
    save(tracker, 3, [3], 0.25)
    assert tracker.finish("FINISHED", DELIVERY_S)
    (model,) = models_of(uri, "killed")
    assert failed and model.status == "READY" and len(model.metrics or ()) == 1


def test_models_that_were_not_sent_are_restored_from_a_checkpoint(
    absent_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = open_tracker(absent_uri, tmp_path / "lost", "restored")
    save(away, 3, [3], 0.25)
    wait_for_warning(caplog)
    lines = away.undelivered()
    away.finish("KILLED", 0.1)
    uri = new_database(tmp_path / "runs")
    back = open_tracker(uri, tmp_path / "spool", "restored", restored=lines, resume_step=3)
    assert back.finish("FINISHED", DELIVERY_S)
    (model,) = models_of(uri, "restored")
    assert model.name == "step-00000003" and len(model.metrics or ()) == 1


@pytest.mark.parametrize("sent", [True, False])
def test_an_entry_that_a_checkpoint_restores_late_removes_no_later_model(
    sent: bool, absent_uri: str, tmp_path: Path
) -> None:
    """Checkpoint 4 holds the entry of 3, which was sent meanwhile, as was that of 4, or not."""
    uri = new_database(tmp_path / "runs")
    first = open_tracker(uri if sent else absent_uri, tmp_path / "spool", "late")
    save(first, 3, [3])
    lines = first.undelivered()
    save(first, 4, [3, 4])
    assert first.finish("KILLED", DELIVERY_S if sent else 0.0) or not sent
    again = open_tracker(uri, tmp_path / "spool", "late", restored=lines, resume_step=4)
    assert again.finish("FINISHED", DELIVERY_S)
    assert [one.name for one in models_of(uri, "late")] == ["step-00000003", "step-00000004"]


def test_a_server_without_logged_models_costs_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = new_database(tmp_path / "runs")

    def unknown(*_given: object, **_named: object) -> None:
        error = MlflowException("Not Found")
        error.error_code = "ENDPOINT_NOT_FOUND"
        raise error

    monkeypatch.setattr(MlflowClient, "search_logged_models", unknown)
    tracker = open_tracker(uri, tmp_path / "spool", "older", register_as="older-net")
    save(tracker, 3, [3], 0.25)
    tracker.log_text("between", "a.txt")
    save(tracker, 6, [3, 6], 0.5)
    tracker.register_best(checkpoint(6).uri, f"{6:064x}", {"miou": 0.5})
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert caplog.text.count("has no LoggedModels, which came with MLflow 3") == 1
    assert history(uri, only_run(uri, "older"), "validation/miou") == [(3, 0.25), (6, 0.5)]
    version = MlflowClient(uri).get_model_version_by_alias("older-net", "best")
    assert version.source == checkpoint(6).uri, "adapt.load finds it by its URI"

    on_disk = open_tracker(uri, tmp_path / "spool", "on disk", register_as="disk-net")
    on_disk.register_best(str(tmp_path / "weights.safetensors"), "ab" * 32, {"miou": 0.5})
    assert on_disk.finish("FINISHED", DELIVERY_S)
    version = MlflowClient(uri).get_model_version_by_alias("disk-net", "best")
    assert version.source == only_run(uri, "on disk").info.artifact_uri, "servers take no path"
    assert version.tags["best_checkpoint_uri"] == str(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_proxy_that_does_not_pass_a_method_costs_one_message(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow finishes a LoggedModel by PATCH, which no other request of ours is."""
    uri = new_database(tmp_path / "runs")

    def page(*_given: object, **_named: object) -> None:
        answer = Response()
        answer.status_code, answer._content = status, b"<!DOCTYPE HTML>"
        verify_rest_response(answer, "/api/2.0/mlflow/logged-models/m-1")

    monkeypatch.setattr(MlflowClient, "finalize_logged_model", page)
    tracker = open_tracker(uri, tmp_path / "spool", "proxied")
    for step in (3, 6, 9):
        save(tracker, step, [step], step / 10)
    tracker.register_best(checkpoint(9).uri, f"{9:064x}", {"miou": 0.9})
    start_s = time.monotonic()
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert time.monotonic() - start_s < 10
    assert caplog.text.count("let it pass GET, POST, PATCH and DELETE") == 1
    assert "unreachable" not in caplog.text
    assert len(models_of(uri, "proxied")) == 1, "none is begun that cannot be finished"
    assert only_run(uri, "proxied").data.tags["best_checkpoint_uri"] == checkpoint(9).uri


@pytest.mark.slow
def test_the_best_is_registered_by_its_model_with_signature_classes_and_lineage(
    uri: str, tmp_path: Path
) -> None:
    import mlflow
    from mlflow.models import Model

    tracker = open_tracker(uri, tmp_path / "spool", "whole", register_as="whole-net")
    save(tracker, 3, [3], 0.5)
    tracker.register_best(checkpoint(3).uri, f"{3:064x}", {"miou": 0.5})
    save(tracker, 6, [3, 6], 0.25)
    assert tracker.finish("FINISHED", DELIVERY_S)
    best, _ = models_of(uri, "whole")
    version = MlflowClient(uri).get_model_version_by_alias("whole-net", "best")
    assert version.source == best.artifact_location
    assert version.tags["segadapt.classes"] == "road, car"
    assert version.tags["segadapt.data.source"] == "cd" * 16
    assert version.tags["best_checkpoint_sha256"] == f"{3:064x}"
    mlflow.set_tracking_uri(uri)
    found = Model.load("models:/whole-net@best")
    assert found.signature is not None and found.signature.inputs is not None
    (images,) = found.signature.inputs.to_dict()
    assert images["tensor-spec"] == {"dtype": "uint8", "shape": (-1, -1, -1, 3)}
    assert found.metadata is not None
    assert [one["name"] for one in found.metadata["segadapt.classes"]] == ["road", "car"]
    example = found.load_input_example("models:/whole-net@best")
    assert (example.shape, str(example.dtype)) == ((1, 32, 64, 3), "uint8")


def test_the_alias_that_a_kill_left_behind_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = new_database(tmp_path / "runs")
    call, failed = MlflowClient.set_registered_model_alias, []

    def once_away(self: MlflowClient, *given: Any) -> None:
        if not failed:
            failed.append(given)
            raise ConnectionResetError("cut off")
        call(self, *given)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", once_away)
    monkeypatch.setattr("adapt.tracking.delivery._LAST_WAIT_S", 0.05)
    tracker = open_tracker(uri, tmp_path / "spool", "alias", register_as="alias-net")
    tracker.register_best("s3://bucket/a", "ab" * 32, {"miou": 0.5})
    assert tracker.finish("FINISHED", DELIVERY_S)
    (version,) = MlflowClient(uri).search_model_versions("name = 'alias-net'")
    assert MlflowClient(uri).get_model_version_by_alias("alias-net", "best").version == (
        version.version
    )
