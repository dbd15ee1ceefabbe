"""A whole job: trains, evaluates, saves, stops, and goes on bit for bit."""

import hashlib
import logging
import os
import re
import resource
import shutil
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from adapt.batch import Sample
from adapt.checkpoint.run_folder import RunFolder
from adapt.config.strict_yaml import with_overrides
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.packing.pack import pack
from adapt.errors import DataError, Interrupted, JobError
from adapt.models.discriminators import FullyConvolutionalDiscriminator
from adapt.models.official.exporting import adversaries_of
from adapt.places import Place
from adapt.spec.job_spec import JobSpec, load_spec, parse_spec
from adapt.stream.config import StreamConfig
from adapt.stream.host_batch import Decoded
from adapt.stream.observe import Observed
from adapt.stream.stream import Stream
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.networks import check_networks
from adapt.trainer.opening import decoding_threads
from adapt.trainer.progress import Progress
from adapt.trainer.run import allow_open_files, run_job
from adapt.trainer.score import evaluate_checkpoint
from adapt.trainer.trainer import Outcome
from storage.errors import StoreError
from storage.stores import Stores
from tests.conftest import write_raw_folders
from tests.stream.faults import overwrite


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("local", {}, tmp_path / "scratch", grace_s=120)  # time for a busy machine


def job_of(values: dict[str, Any], *overrides: str) -> JobSpec:
    return parse_spec(with_overrides(values, overrides), "tiny")


def run(
    job: JobSpec, place: Place, stop_at: int | None = None, fresh: bool = False
) -> tuple[Outcome, list[Progress]]:
    stop, seen = Event(), []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == stop_at:
            stop.set()

    return run_job(job, place, stop, watch, fresh), seen


def last_weights(job: JobSpec) -> dict[str, torch.Tensor]:
    folders = sorted((Path(job.checkpoint.uri) / job.name).glob("step-*"))
    return load_file(folders[-1] / "weights.safetensors")


def test_a_job_trains_evaluates_and_leaves_its_best(tiny_job: dict[str, Any], place: Place) -> None:
    job = job_of(tiny_job)
    outcome, seen = run(job, place)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert outcome.step == 6 and outcome.best is not None
    assert 0 <= outcome.metrics["miou"] <= 1 and outcome.best.score >= outcome.metrics["miou"]
    folder = Path(job.checkpoint.uri) / "tiny"
    evaluation = evaluate_checkpoint(job, place, str(folder / outcome.best.name))
    assert evaluation.score.metrics()["miou"] == outcome.best.score


def test_the_platform_keeps_the_best_weights_and_its_job_is_named(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    job, out = job_of(tiny_job), tmp_path / "model"
    there = {"job": "town-1", "platform": "somewhere", "checkpoints_at": "s3://bucket/runs"}
    outcome, _ = run(job, replace(place, model_dir=out, **there))
    assert outcome.best is not None
    kept = (out / "weights.safetensors").read_bytes()
    assert hashlib.sha256(kept).hexdigest() == outcome.best.sha256
    assert load_spec(out / "spec.yaml") == job
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


def test_mlflow_has_everything_of_the_one_run(tiny_job: dict[str, Any], place: Place) -> None:
    from mlflow import MlflowClient

    job = job_of(tiny_job)
    with pytest.raises(Interrupted):
        run(job, place, stop_at=4)
    outcome, _ = run(job, place)
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    history = client.get_metric_history(runs[0].info.run_id, "loss/segmentation/main")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]
    assert runs[0].data.params["method.name"] == "advent"
    assert outcome.best is not None
    assert runs[0].data.tags["best_checkpoint_sha256"] == outcome.best.sha256
    artifacts = {
        a.path
        for folder in ("", "pictures", "evaluations")
        for a in client.list_artifacts(runs[0].info.run_id, folder)
    }
    assert {
        "spec.yaml",
        "pictures/step-00000003.png",
        "evaluations/step-00000006.json",
    } <= artifacts
    assert {"validation/miou", "validation/iou/band 0", "speed/data_wait_share"} <= set(
        runs[0].data.metrics
    )
    assert {f"stream/{name}" for name in Observed._fields} <= set(runs[0].data.metrics)
    assert runs[0].data.tags["segadapt.source"] == dataset_id(job.source.uri)


def test_no_metric_is_lost_with_the_scratch_disk_while_mlflow_is_away(
    tiny_job: dict[str, Any], place: Place
) -> None:
    from mlflow import MlflowClient

    with pytest.raises(Interrupted):
        run(job_of(tiny_job, "tracking.uri=http://127.0.0.1:9"), place, stop_at=4)
    shutil.rmtree(place.scratch_dir)
    job = job_of(tiny_job)
    run(job, place)
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss/segmentation/main")
    assert [point.step for point in history] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_failed_says_why(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def broken(*_given: Any) -> None:
        raise DataError("shard 3 is torn")

    with monkeypatch.context() as patch:
        patch.setattr("adapt.engine.engine.Engine.step", broken)
        with pytest.raises(DataError):
            run(job_of(tiny_job), place)
    job = job_of(tiny_job)
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.tags["segadapt.error"] == "DataError: shard 3 is torn"
    run(job, place)
    healed = client.get_run(found.info.run_id)
    assert healed.info.status == "FINISHED" and "segadapt.error" not in healed.data.tags


def dataset_id(uri: str) -> str:
    return read_manifest(Stores().open(uri), "train")[0].dataset_id


def test_other_samples_than_the_checkpoint_s_are_refused_by_name(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    job = job_of(tiny_job)
    with pytest.raises(Interrupted):
        run(job, place, stop_at=2)
    shutil.copytree(job.source.uri, tmp_path / "moved")
    with pytest.raises(Interrupted):
        run(job_of(tiny_job, f"source.uri={tmp_path / 'moved'}"), place, stop_at=3)
    write_raw_folders(tmp_path / "raw", 22, seed=5)
    pack("folders", tmp_path / "raw", Stores().open(str(tmp_path)), "train", name="tiny")
    with pytest.raises(JobError, match=r"target: .* dataset_id '[0-9a-f]{64}', now it is '"):
        run(job_of(tiny_job, f"target.uri={tmp_path}"), place)
    for change, message in [
        ("seed=7", "^seed: "),
        ("source.batch_size=4", r"^source\.batch_size: "),
    ]:
        with pytest.raises(JobError, match=message):
            run(job_of(tiny_job, change), place)


@pytest.mark.parametrize("stops", [(1,), (3,), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("method", ["advent", "source_only"])
def test_a_job_stopped_anywhere_ends_bit_identical(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, method: str, stops: tuple[int, ...]
) -> None:
    values = {**tiny_job, "method": {"name": method}}
    calm = job_of(values, f"checkpoint.uri={tmp_path / 'calm'}")
    _, expected = run(calm, place)
    job = job_of(values, f"checkpoint.uri={tmp_path / 'stopped'}", "stream.threads=1")
    for stop_at in stops:
        with pytest.raises(Interrupted, match=f"step {stop_at}, everything is saved"):
            run(job, place, stop_at)
    _, seen = run(job, place)
    assert [p.losses for p in seen] == [p.losses for p in expected[stops[-1] :]]
    for key, value in last_weights(calm).items():
        assert torch.equal(value, last_weights(job)[key]), key


def test_a_stop_while_data_does_not_come_saves_the_last_step(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    run(calm, place)
    job = job_of(tiny_job, "stream.threads=1")
    stop, stalled, back = Event(), Event(), Event()
    read, wait, reads = PackedSplit.read, Stream._waited_for, count()

    def stalling(split: PackedSplit, sample: int) -> Sample:
        if split.id_table is None and next(reads) >= 8:  # the target's, of the fifth step
            stalled.set()
            assert back.wait(60)
        return read(split, sample)

    def waiting(stream: Stream, future: Future[Decoded]) -> Decoded:
        if stream.split.id_table is None and stalled.is_set() and not future.done():
            stop.set()
            Timer(2, back.set).start()  # or the stream's threads would not end
        return wait(stream, future)

    with monkeypatch.context() as patch:
        patch.setattr(PackedSplit, "read", stalling)
        patch.setattr(Stream, "_waited_for", waiting)
        with pytest.raises(Interrupted, match="waiting for data after step 4, everything is saved"):
            run_job(job, place, stop)
    run(job, place)
    for key, value in last_weights(calm).items():
        assert torch.equal(value, last_weights(job)[key]), key


def test_a_stop_inside_an_evaluation_repeats_it(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapt.trainer import trainer

    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    expected, _ = run(calm, place)
    job = job_of(tiny_job)
    evaluate, stop = trainer.evaluate, Event()

    def stopping(*args: Any, **kwargs: Any) -> Any:
        stop.set()
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(trainer, "evaluate", stopping)
    with pytest.raises(Interrupted, match="stopped while evaluating step 3"):
        run_job(job, place, stop)
    monkeypatch.undo()
    outcome, _ = run(job, place)
    assert outcome == expected


def test_a_kill_between_a_new_best_and_its_mark_loses_no_best(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    expected, _ = run(calm, place)
    job = job_of(tiny_job)

    def killed(*given: Any) -> None:
        raise StoreError("the process ends here")

    monkeypatch.setattr(RunFolder, "mark_best", killed)
    monkeypatch.setattr("adapt.trainer.trainer.PATIENCE_S", 2.0)
    with pytest.raises(StoreError):
        run(job, place)
    monkeypatch.undo()
    outcome, _ = run(job, place)
    assert outcome == expected


def test_a_damaged_checkpoint_costs_only_its_steps(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    run(calm, place)
    job = job_of(tiny_job, "checkpoint.every_steps=1")
    with pytest.raises(Interrupted):
        run(job, place, stop_at=4)
    state = Path(job.checkpoint.uri) / "tiny" / "step-00000004" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        _, seen = run(job, place)
    assert "step-00000004: damaged, passed over" in caplog.text and seen[0].step == 4
    for key, value in last_weights(calm).items():
        assert torch.equal(value, last_weights(job)[key]), key


def test_a_finished_job_is_done_at_once_and_fresh_starts_over(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job = job_of(tiny_job)
    first, _ = run(job, place)
    outcome, seen = run(job, place)
    assert outcome == first and not seen
    _, seen = run(job, place, fresh=True)
    assert len(seen) == 6


def test_a_changed_spec_is_refused_by_key(tiny_job: dict[str, Any], place: Place) -> None:
    run(job_of(tiny_job), place)
    with pytest.raises(
        JobError, match=r"^optim.lr: the run's checkpoint was made with 0.00025, the spec says 0.1"
    ):
        run(job_of(tiny_job, "optim.lr=0.1"), place)


def test_a_run_can_start_from_another_runs_weights(tiny_job: dict[str, Any], place: Place) -> None:
    first = job_of(tiny_job)
    outcome, _ = run(first, place)
    assert outcome.best is not None
    weights = Path(first.checkpoint.uri) / "tiny" / outcome.best.name / "weights.safetensors"
    second = job_of(tiny_job, "name=second", f"model.start_uri={weights}", "train.steps=1")
    assert run(second, place)[0].step == 1
    other = job_of(
        tiny_job,
        "name=third",
        f"model.start_uri={weights}",
        "model.aux=false",
        "method={name: source_only}",
    )
    with pytest.raises(JobError, match=r"model.aux: expected true, with which the weights"):
        run(other, place)


def test_weights_of_two_branches_are_no_start_for_four(
    tiny_job: dict[str, Any], place: Place
) -> None:
    outcome, _ = run(job_of(tiny_job, "model.aspp_branches=2", "train.steps=1"), place)
    assert outcome.best is not None
    weights = Path(tiny_job["checkpoint"]["uri"]) / "tiny" / outcome.best.name
    start = f"model.start_uri={weights / 'weights.safetensors'}"
    message = "model.aspp_branches: expected 2, with which the weights at model.start_uri were"
    with pytest.raises(JobError, match=message):
        run(job_of(tiny_job, "name=second", start), place)
    with pytest.raises(JobError, match=message):
        evaluate_checkpoint(job_of(tiny_job), place, str(weights))


def test_discriminators_can_start_from_files(tiny_job: dict[str, Any], place: Place) -> None:
    weights = Path(tiny_job["checkpoint"]["uri"]) / "main.safetensors"
    weights.parent.mkdir(parents=True)
    network = FullyConvolutionalDiscriminator(4)
    torch.nn.init.zeros_(network.convs[4].bias)
    save_file(network.state_dict(), weights)
    steps = ("train.steps=1", "optim.adversary_lr=1e-12")
    job = job_of(tiny_job, f"method.discriminator_uris.main={weights}", *steps)
    outcome, _ = run(job, place)
    assert outcome.best is not None
    state = weights.parent / "tiny" / outcome.best.name / "state.pt"
    found = adversaries_of(state)["main"]
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(found[key], tensor)
    wide = job_of(
        tiny_job, "name=wide", f"method.discriminator_uris.main={weights}",
        "method.discriminator_width=8", *steps
    )  # fmt: skip
    with pytest.raises(JobError, match=r"discriminator_uris.main: expected weights of a discrim"):
        run(wide, place)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.weight_adv=[1.0, 1.0, 1.0]",), "method.weight_adv: expected at most one weight"),
        (
            ("method.discriminator_uris.third=x.pth",),
            "method.discriminator_uris.third: expected an adapted head, got 'third'",
        ),
        (("optim.sgd_multiplicity=official",), "optim.sgd_multiplicity: expected none with enco"),
        (
            ("model.encoder=caffe_resnet14", "model.output_stride=8", "model.weights=imagenet"),
            "model.weights: expected none with encoder 'caffe_resnet14'",
        ),
        (("model.encoder=caffe_resnet14", "model.output_stride=16"), "model.output_stride: expe"),
    ],
)
def test_networks_that_do_not_fit_are_found_before_data_is_touched(
    tiny_job: dict[str, Any], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        check_networks(job_of(tiny_job, *overrides))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("source.uri=s3-less/nowhere", DataError, "pack"),
        ("source.dataset=band", JobError, "expected ids for dataset 'band'"),
        ("source.uri=gopher://x/y", StoreError, "no store for the scheme 'gopher'"),
        ("model.start_uri=nothing.safetensors", StoreError, "nothing.safetensors"),
        ("model.encoder=resnet19", JobError, "did you mean 'resnet18'"),
        ("method.weight_adv=[1.0, 1.0, 1.0]", JobError, "at most one weight for each head"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    tiny_job: dict[str, Any], place: Place, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(job_of(tiny_job, override), place)


def test_ranks_share_a_node_s_cores_for_decoding(place: Place) -> None:
    cores = len(os.sched_getaffinity(0))
    assert decoding_threads(StreamConfig(), place) == max(2, min(16, cores))
    assert decoding_threads(StreamConfig(), replace(place, local_ranks=cores)) == 2
    assert decoding_threads(StreamConfig(threads=5), replace(place, local_ranks=cores)) == 5


def test_another_dataset_than_packed_is_refused(tiny_job: dict[str, Any], place: Place) -> None:
    overrides = [f"classes.{index}.ids.other=[{index}]" for index in range(4)]
    with pytest.raises(DataError, match="was packed as 'tiny', the spec says dataset 'other'"):
        run(job_of(tiny_job, *overrides, "source.dataset=other"), place)


def test_absent_classes_are_named(
    tiny_job: dict[str, Any], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_job["classes"] = [
        *tiny_job["classes"],
        {"name": "train", "colour": [1, 2, 3], "ids": {"tiny": [9]}},
    ]
    with caplog.at_level(logging.WARNING):
        run(job_of(tiny_job, "train.steps=1"), place)
    assert "no pixel of train; those classes cannot be learned" in caplog.text
    tiny_job["classes"] = [
        {"name": str(i), "colour": [i, 0, 0], "ids": {"tiny": [50 + i]}} for i in range(2)
    ]
    with pytest.raises(DataError, match="no pixel belongs to any of the classes"):
        run(job_of(tiny_job, "name=none"), place)


def test_bad_samples_end_the_job_or_are_counted(
    tiny_job: dict[str, Any], tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(tiny_job["source"]["uri"], tmp_path / "copy")
    store = Stores().open(str(copy))
    bad = read_manifest(store, "train")[1].keys.tolist()[:11]
    overwrite(store, bad, "label")
    source = f"source.uri={copy}"
    with pytest.raises(DataError, match=r"label cannot be decoded.*stream.on_bad_sample: skip"):
        run(job_of(tiny_job, source), place)
    skipping = job_of(tiny_job, "name=skipping", source, "stream.on_bad_sample=skip")
    with caplog.at_level(logging.WARNING):
        outcome, _ = run(skipping, place)
    assert outcome.step == 6
    told = re.search(r"skipped a bad sample (\d+) times", caplog.text)
    assert told is not None
    assert metric(skipping, "stream/bad_samples") == int(told[1]) > 0


def metric(job: JobSpec, name: str) -> float:
    """A metric's last value in the job's MLflow file."""
    client = MlflowClient(embedded_tracking_uri(Path(job.checkpoint.uri)))
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    runs = client.search_runs([experiment.experiment_id], f"run_name = '{job.name}'")
    return float(runs[0].data.metrics[name])


def test_a_job_may_open_as_many_files_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] // 2, before[1]))
    try:
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_evaluating_needs_a_validation_split(tiny_job: dict[str, Any], place: Place) -> None:
    with pytest.raises(JobError, match="validation: missing"):
        evaluate_checkpoint(job_of(tiny_job, "validation=null"), place, "anything")


def test_the_target_s_labels_are_never_opened(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapt.trainer import opening

    opened = {}
    original = opening.open_data

    def spy(*args: Any) -> Any:
        data = original(*args)
        opened["tables"] = [None if split is None else split.id_table for split in data]
        return data

    monkeypatch.setattr(opening, "open_data", spy)
    run(job_of(tiny_job, "train.steps=1"), place)
    source, target, validation = opened["tables"]
    assert source is not None and target is None and validation is not None
