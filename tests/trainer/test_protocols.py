"""Whole jobs under each protocol: the checkpoint that counts, its network, kills in between."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from adapt.checkpoint.run_folder import RunFolder
from adapt.config.strict_yaml import parse_yaml
from adapt.data.writing.pack import pack
from adapt.errors import DataError, Interrupted
from adapt.places import Place
from adapt.report.run_record import read_run
from adapt.report.sections import lead
from adapt.spec.job_spec import JobSpec
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.download import download_best
from adapt.trainer.score import evaluate_checkpoint, rank_checkpoints
from storage.errors import StoreError
from storage.stores import Stores
from tests.conftest import small_method, write_raw_folders
from tests.trainer.jobs import job_of, last_folder, run, stopped_and_calm

EMA = ("train.ema={alpha: 0.5}", "evaluate.every_steps=2", "method={name: source_only}")
LABEL_FREE = "evaluate.select_by=information_maximisation"


def folder_of(job: JobSpec) -> RunFolder:
    return RunFolder(Stores().open(f"{job.checkpoint.uri}/{job.name}"))


def saved(job: JobSpec, name: str, file: str) -> dict[str, torch.Tensor]:
    return load_file(Path(job.checkpoint.uri) / job.name / name / file)


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Evaluations whose mIoU falls from one to the next; their number so far."""
    from adapt.trainer import evaluator

    evaluate, calls = evaluator.evaluate, [0]

    def worse(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        matrix = torch.tensor([[10, calls[0]], [calls[0], 10]])
        found = evaluate(*given, **named)
        return found._replace(score=found.score._replace(matrix=matrix.to(torch.int64)))

    monkeypatch.setattr(evaluator, "evaluate", worse)
    tracked = "adapt.trainer.journal.Journal.log_evaluations"
    monkeypatch.setattr(tracked, lambda *_given: None)  # tables of two classes do not fit
    yield calls


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "step"), [("best", 2), ("last", 6)])
def test_the_checkpoint_that_counts_is_the_protocol_s(
    tiny_job: dict[str, Any], place: Place, falling: list[int], protocol: str, step: int
) -> None:
    job = job_of(tiny_job, f"evaluate.protocol={protocol}", "evaluate.every_steps=2")
    outcome, _ = run(job, place)
    assert outcome.best is not None and outcome.best.step == step
    assert falling == [3]
    again, seen = run(job, place)
    assert again == outcome and not seen and falling == [3], "a finished job is done at once"


@pytest.mark.slow
def test_a_prolonged_run_s_last_checkpoint_counts(
    tiny_job: dict[str, Any], place: Place, falling: list[int]
) -> None:
    values = {**tiny_job, "optim": {"schedule_steps": 20}}
    rules = ("evaluate.protocol=last", "evaluate.every_steps=2")
    run(job_of(values, *rules), place)
    outcome, _ = run(job_of(values, *rules, "train.steps=8"), place)
    assert outcome.best is not None and outcome.best.step == 8


@pytest.mark.slow
def test_a_kill_before_the_mark_of_the_last_checkpoint_loses_no_mark(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tiny_job, "evaluate.protocol=last")

    def killed(*given: Any) -> None:
        raise StoreError("the process ends here")

    monkeypatch.setattr(RunFolder, "mark_best", killed)
    monkeypatch.setattr("adapt.trainer.trainer.RETRY_TIME_S", 2.0)
    with pytest.raises(StoreError):
        run(job, place)
    monkeypatch.undo()
    outcome, _ = run(job, place)
    assert outcome.best is not None and outcome.best.step == 6


@pytest.mark.slow
def test_the_average_is_evaluated_and_saved_beside_the_student(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job = job_of(tiny_job, *EMA, "evaluate.ema=true")
    outcome, _ = run(job, place)
    assert {"miou", "ema/miou", "pixel_accuracy", "ema/pixel_accuracy"} == set(outcome.metrics)
    last = folder_of(job).names()[-1]
    files = Path(job.checkpoint.uri) / "tiny" / last
    found = evaluate_checkpoint(job, place, str(files / "ema.safetensors")).score.metrics()
    assert found["miou"] == outcome.metrics["ema/miou"]
    student = evaluate_checkpoint(job, place, str(files)).score.metrics()
    assert student["miou"] == outcome.metrics["miou"]
    state = folder_of(job).load(last)["engine"]["ema"]
    for key, value in saved(job, last, "ema.safetensors").items():
        assert torch.equal(value, state[f"network.{key}"]), key
    (tracked,) = tracked_runs(job)
    assert {"validation/ema/miou", "validation/ema/iou/band 0"} <= set(tracked.data.metrics)
    assert tracked.data.metrics["validation/ema/miou"] == outcome.metrics["ema/miou"]
    tags = tracked.data.tags
    assert (tags["best_checkpoint_protocol"], tags["best_checkpoint_weights"]) == (
        "best",
        "student",
    )


def tracked_runs(job: JobSpec) -> list[Any]:
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    experiment = client.get_experiment_by_name(job.tracking.experiment)
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
def test_where_the_average_counts_its_weights_are_the_run_s(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    job, out = job_of(tiny_job, *EMA, "evaluate.weights=ema"), tmp_path / "model"
    outcome, _ = run(job, replace(place, model_dir=out))
    best = outcome.best
    assert best is not None and set(outcome.metrics) >= {"miou", "ema/miou"}
    folder = Path(job.checkpoint.uri) / "tiny" / best.name
    assert evaluate_checkpoint(job, place, str(folder)).score.metrics()["miou"] == best.score
    state = folder_of(job).load(best.name)["engine"]
    for file, prefix, kept in (
        ("weights.safetensors", "network.", state["ema"]),
        ("student.safetensors", "segmenter.", state["method"]),
    ):
        for key, value in saved(job, best.name, file).items():
            assert torch.equal(value, kept[f"{prefix}{key}"]), key
    delivered = (out / "weights.safetensors").read_bytes()
    assert delivered == (folder / "weights.safetensors").read_bytes()
    uri = embedded_tracking_uri(Path(job.checkpoint.uri))
    fetched = download_best("tiny", tmp_path / "got", uri, place)
    assert fetched.weights_path.read_bytes() == delivered
    assert (fetched.protocol, fetched.weights, fetched.chosen_by) == ("best", "ema", "miou")
    assert fetched.score == best.score


@pytest.mark.slow
@pytest.mark.parametrize("method", ["source_only", "mic"])
def test_an_average_that_was_stopped_anywhere_ends_bit_identical(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, method: str
) -> None:
    values = {**tiny_job, "method": small_method(method)}
    if method == "mic":
        values["method"] |= {"host": {"name": "source_only"}, "block_px": 16}
    rules = ["evaluate.weights=ema", "evaluate.every_steps=2", "evaluate.protocol=last"]
    rules += ["train.ema={alpha: 0.5}"] if method == "source_only" else []
    job, _ = stopped_and_calm(values, place, tmp_path, *rules, stops=(1, 3, 4))
    assert (last_folder(job) / "student.safetensors").is_file()


@pytest.fixture
def unlabelled_uri(tmp_path: Path) -> str:
    """Images of dataset `tiny` without labels, split `train`."""
    write_raw_folders(tmp_path / "bare", 3, seed=9)
    for path in (tmp_path / "bare" / "labels").iterdir():
        path.unlink()
    (tmp_path / "bare" / "labels").rmdir()
    uri = str(tmp_path / "unlabelled")
    pack("folders", tmp_path / "bare", Stores().open(uri), "train", name="tiny", unlabelled=True)
    return uri


@pytest.mark.slow
def test_without_any_label_of_the_target_a_checkpoint_is_chosen(
    tiny_job: dict[str, Any], place: Place, unlabelled_uri: str, tmp_path: Path
) -> None:
    logged = "evaluate.log_label_free=[nuclear_norm]"
    rules = (LABEL_FREE, f"validation.uri={unlabelled_uri}", "validation.split=train", logged)
    outcome, _ = run(job_of(tiny_job, *rules, *EMA, "evaluate.ema=true"), place)
    name = "information_maximisation"
    both = {name, "nuclear_norm"}
    assert set(outcome.metrics) == {f"{network}{one}" for network in ("", "ema/") for one in both}
    assert outcome.best is not None and 0 < outcome.best.score < 1
    assert outcome.best.score >= outcome.metrics[name]
    (tracked,) = tracked_runs(job_of(tiny_job))
    assert tracked.data.metrics[f"validation/{name}"] == outcome.metrics[name]
    assert tracked.data.tags["best_checkpoint_chosen_by"] == name
    uri = embedded_tracking_uri(tmp_path / "runs")
    for metric in ("miou", name):  # there is none of the first
        fetched = download_best("tiny", tmp_path / metric, uri, place, metric=metric)
        assert (fetched.protocol, fetched.chosen_by) == ("best", name)
        assert (fetched.metric, fetched.score) == (name, outcome.best.score)
    job = job_of(tiny_job, *rules, *EMA)
    scored = evaluate_checkpoint(job, place, str(tmp_path / "miou")).score
    assert scored.metrics().keys() == both
    assert scored.metrics()[name] == pytest.approx(outcome.best.score)
    assert scored.record(["a", "b"]) == scored.metrics(), "the command prints this"


@pytest.mark.slow
def test_without_labels_the_checkpoint_that_agrees_most_with_all_counts(
    tiny_job: dict[str, Any], place: Place, unlabelled_uri: str, tmp_path: Path
) -> None:
    """Stopped in between, and by a kill before the last mark."""
    split = (f"validation.uri={unlabelled_uri}", "validation.split=train")
    job = job_of(tiny_job, *split, *EMA[1:], "checkpoint.keep=3")
    with pytest.raises(Interrupted):
        run(job, place, 3)
    outcome, _ = run(job, place)
    folder = folder_of(job)
    saved = [folder.of_step(step) for step in (2, 4, 6)]
    names = {one.name for one in saved if one is not None}
    uris = [f"{folder.uri}/{name}" for name in sorted(names)]
    ranked = rank_checkpoints(job, place, uris)
    best = outcome.best
    assert best is not None and outcome.chosen_by == "ensemble_agreement" and len(names) == 3
    assert (f"{folder.uri}/{best.name}", best.score) == ranked[0]
    own = dict(ranked)[f"{folder.uri}/{sorted(names)[-1]}"]
    assert outcome.metrics == {"ensemble_agreement": own}
    history = read_run(folder.store).history
    assert history.best is not None and history.best["step"] == best.step
    assert history.best["record"]["ensemble_agreement"] == best.score
    (tracked,) = tracked_runs(job)
    assert tracked.data.tags["best_checkpoint_chosen_by"] == "ensemble_agreement"
    assert tracked.data.tags["best_checkpoint_uri"].endswith(f"{best.name}/weights.safetensors")
    assert float(tracked.data.tags["best_checkpoint_ensemble_agreement"]) == best.score
    assert parse_yaml(folder.spec_text(best.name), "")["evaluate"]["select_by"] == (
        "ensemble_agreement"
    )
    other = next(name for name in sorted(names) if name != best.name)
    folder.mark_best(folder.of_step(int(other.split("-")[1])), 0.1)  # as before the last mark
    again, seen = run(job, place)
    assert not seen and again.best == best


@pytest.mark.slow
def test_a_run_that_gains_no_more_ends_as_done(
    tiny_job: dict[str, Any], place: Place, falling: list[int]
) -> None:
    rules = ("evaluate.early_stop={patience: 2}", *EMA[1:], "train.steps=10")
    job = job_of(tiny_job, *rules)
    with pytest.raises(Interrupted):
        run(job, place, 5)
    outcome, _ = run(job, place)
    assert (outcome.step, outcome.stopped_early) == (6, "no gain of miou in 2 evaluations")
    assert outcome.best is not None and outcome.best.step == 2 and falling == [3]
    record = read_run(folder_of(job).store)
    assert "step 6 of 10, stopped early: no gain of miou in 2 evaluations." in lead(record)
    again, seen = run(job, place)
    assert again == outcome and not seen and falling == [3], "it is done at once"
    page = (Path(job.checkpoint.uri) / "tiny" / "report.html").read_text()
    assert "stopped early: no gain of miou" in page
    longer = job_of(tiny_job, "evaluate.early_stop={patience: 3}", *rules[1:])
    outcome, _ = run(longer, place)
    assert (outcome.step, outcome.stopped_early) == (8, "no gain of miou in 3 evaluations")


def test_a_score_of_labels_needs_labels(
    tiny_job: dict[str, Any], place: Place, unlabelled_uri: str
) -> None:
    split = (f"validation.uri={unlabelled_uri}", "validation.split=train")
    message = (
        "expected labels for evaluate.select_by: pixel_accuracy, got a split packed without. "
        "Fix: choose without labels, evaluate.select_by: ensemble_agreement"
    )
    with pytest.raises(DataError, match=message):
        run(job_of(tiny_job, *split, "evaluate.select_by=pixel_accuracy"), place)


@pytest.mark.slow
def test_the_student_s_agreement_with_its_average_is_logged_for_both(
    tiny_job: dict[str, Any], place: Place
) -> None:
    names = "[teacher_agreement, flip_consistency]"
    job = job_of(tiny_job, *EMA, "evaluate.ema=true", f"evaluate.log_label_free={names}")
    outcome, _ = run(job, place)
    own = outcome.metrics["teacher_agreement"]
    assert 0 < own <= 1 and own == outcome.metrics["ema/teacher_agreement"]
    (tracked,) = tracked_runs(job)
    assert tracked.data.metrics["validation/teacher_agreement"] == own
    last = str(Path(job.checkpoint.uri) / "tiny" / folder_of(job).names()[-1])
    again = evaluate_checkpoint(job, place, last).score.metrics()
    assert again["flip_consistency"] == outcome.metrics["flip_consistency"]
    assert "teacher_agreement" not in again, "a file of weights has no average beside it"


def test_labels_that_are_all_void_are_as_none(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    write_raw_folders(tmp_path / "void", 3, seed=4)
    for path in (tmp_path / "void" / "labels").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    uri = str(tmp_path / "packed")
    pack("folders", tmp_path / "void", Stores().open(uri), "train", name="tiny")
    split = (f"validation.uri={uri}", "validation.split=train")
    outcome, _ = run(job_of(tiny_job, LABEL_FREE, *split, "train.steps=3"), place)
    assert set(outcome.metrics) == {"information_maximisation"}
    with pytest.raises(DataError, match="expected pixels of the job's classes, got none of any"):
        run(job_of(tiny_job, *split, "name=other"), place)


def test_labels_that_are_there_are_reported_but_do_not_choose(
    tiny_job: dict[str, Any], place: Place
) -> None:
    outcome, _ = run(job_of(tiny_job, LABEL_FREE), place)
    assert {"miou", "information_maximisation"} <= set(outcome.metrics)
    (tracked,) = tracked_runs(job_of(tiny_job))
    tags = tracked.data.tags
    assert tags["best_checkpoint_chosen_by"] == "information_maximisation"
    assert 0 <= float(tags["best_checkpoint_miou"]) <= 1
