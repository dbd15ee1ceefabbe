"""The journal of a job: metrics, tables and pictures in MLflow."""

import logging
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from adapt.data.packed.split_files import read_manifest
from adapt.errors import DataError, Interrupted
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.observe import Observed
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.journal import Journal
from storage.stores import Stores
from tests.stream.bad_splits import overwrite
from tests.trainer.jobs import job_of, run

NOTE = "mlflow.note.content"


@pytest.mark.slow
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
    history = client.get_metric_history(runs[0].info.run_id, "train/loss.segmentation.main")
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
        "report.html",
        "pictures/step-00000003.png",
        "evaluations/step-00000006.json",
    } <= artifacts
    assert {"validation/miou", "validation/iou/band 0", "speed/data_wait_share"} <= set(
        runs[0].data.metrics
    )
    assert {f"stream/{name}" for name in Observed._fields} <= set(runs[0].data.metrics)
    tags = runs[0].data.tags
    assert tags["segadapt.source"] == dataset_id(job.source.uri)
    assert tags["mlflow.source.name"] == "segadapt run tiny"
    assert "**advent** on deeplab_v2 (test_resnet): tiny to tiny, 6 steps" in tags[NOTE]
    inputs = runs[0].inputs.dataset_inputs
    assert {(one.dataset.name, one.tags[0].value) for one in inputs} == {
        ("tiny/train", "source"),
        ("tiny/val", "validation"),
    }, "the target is the source's split, which is listed once"
    models = client.search_logged_models([experiment.experiment_id])
    run_folder = Path(job.checkpoint.uri).resolve() / "tiny"
    kept = {path.as_uri() for path in run_folder.glob("*/weights.safetensors")}
    assert {one.params["uri"] for one in models} == kept
    (best,) = (one for one in models if one.params["sha256"] == outcome.best.sha256)
    assert {(one.dataset_name, one.dataset_digest) for one in best.metrics or ()} == {
        ("tiny/val", tags["segadapt.validation"][:32])
    }
    assert "validation/miou" in {one.key for one in best.metrics or ()}
    panels = Counter(key.rpartition("/")[0] for key in runs[0].data.metrics)
    assert set(panels) == {"train", "speed", "stream", "validation", "validation/iou"}
    assert min(panels.values()) > 1, "MLflow makes a panel of what stands before the last slash"


def dataset_id(uri: str) -> str:
    return read_manifest(Stores().open(uri), "train")[0].dataset_id


@pytest.mark.slow
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


@pytest.mark.parametrize("leader", [True, False])
def test_the_leader_alone_logs_an_evaluation(
    leader: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine = SimpleNamespace(step_count=3)
    journal: Any = SimpleNamespace(_engine=engine, _leader=leader, tracker=None)
    with caplog.at_level(logging.INFO):
        selection: Any = None  # for the tracker alone
        Journal.log_evaluations(journal, {}, {"miou": 0.25}, selection)
    assert caplog.messages == (["step 3: miou 25.00%"] if leader else [])
