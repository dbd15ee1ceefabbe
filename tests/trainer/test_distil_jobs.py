"""Jobs in which a teacher teaches a small student: where its weights come from, its scores beside
the student's, the report and the quality gate."""

import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, safe_open, save_file

from adapt.check import Subject
from adapt.check.memory import predicted_bytes
from adapt.check.weights import weights_findings
from adapt.cli.jobs import _say_outcome
from adapt.errors import JobError
from adapt.evaluation.quality_gate import gap_of
from adapt.models import build_segmenter
from adapt.models.segmenter import Segmenter
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.tracking.mlflow_run import BEST_URI_TAG
from adapt.trainer import teacher_network
from adapt.trainer.found_run import FoundRun
from adapt.trainer.networks import check_networks
from adapt.trainer.outcome import Outcome
from storage.stores import Stores
from tests.networks import TEACHER, tiny_model
from tests.trainer.jobs import job_of, run

STUDENT = {**tiny_model("pspnet"), "norm": "frozen", "aux": False}


def distil(tiny_job: dict[str, Any], teacher: dict[str, Any], **method: Any) -> JobSpec:
    section = {"name": "distil", "teacher": {"model": TEACHER, **teacher}, **method}
    short = ("train.steps=2", "evaluate.every_steps=1", "evaluate.pictures=0", "name=small")
    return job_of({**tiny_job, "model": STUDENT, "method": section}, *short)


def planted(tiny_job: dict[str, Any], num_classes: int = 4) -> Path:
    folder = Path(tiny_job["checkpoint"]["uri"])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(build_segmenter(TEACHER, num_classes).state_dict(), folder / "large.safetensors")
    return folder / "large.safetensors"


def test_the_student_is_what_is_kept_and_the_teacher_what_it_is_compared_with(
    tiny_job: dict[str, Any], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    job = distil(tiny_job, {"uri": str(planted(tiny_job))}, max_gap_points=0.0)
    outcome, seen = run(job, place)
    assert {"miou", "teacher/miou"} <= outcome.metrics.keys() and outcome.best is not None
    folder = Path(job.checkpoint.uri) / "small"
    kept = folder / outcome.best.name / "weights.safetensors"
    own = build_segmenter(STUDENT, 4).state_dict()
    assert load_file(kept).keys() == own.keys()
    with safe_open(kept, framework="pt") as file:
        assert "pspnet" in file.metadata()["segadapt.model"]
    assert "taught/main" in seen[-1].losses
    page = (folder / "report.html").read_text()
    assert "Student and teacher" in page and "At step 2 the student" in page
    _say_outcome(job, place, Outcome(2, None, {"miou": 0.5, "teacher/miou": 0.6}, "miou"), False)
    said = " ".join(capsys.readouterr().err.split())
    assert "10.00 points below its teacher's, 60.00%: more than method.max_gap_points, 0" in said


def test_a_teacher_is_a_run_beside_this_one_by_its_name(
    tiny_job: dict[str, Any], place: Place
) -> None:
    before = ("method={name: source_only}", "train.steps=1", "name=large", "evaluate.pictures=0")
    run(job_of({**tiny_job, "model": TEACHER}, *before), place)
    job = distil(tiny_job, {"uri": "large"})
    assert job.uris()["method.teacher.uri"].endswith("/large")
    (found,) = weights_findings(Subject(job, place))
    assert found.ok and "/large" in found.found


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"uri": "nowhere"}, "method.teacher.uri: expected a run with a checkpoint, got none at"),
        ({"uri": "large.safetensors"}, "expected weights for 4 classes, got 5"),
        (
            {"model": {**TEACHER, "architecture": "pspnet"}, "uri": "large.safetensors"},
            "expected weights of pspnet on test_resnet",
        ),
    ],
)
def test_check_names_a_teacher_that_does_not_fit(
    teacher: dict[str, Any], message: str, tiny_job: dict[str, Any], place: Place
) -> None:
    path = planted(tiny_job, num_classes=5)
    if teacher["uri"] == path.name:
        teacher = {**teacher, "uri": str(path)}
    (found,) = weights_findings(Subject(distil(tiny_job, teacher), place))
    assert not found.ok and message in found.found


@pytest.mark.slow
def test_the_memory_of_a_teacher_is_predicted(tiny_job: dict[str, Any]) -> None:
    frozen = predicted_bytes(distil(tiny_job, {"uri": "large"}), 1)
    learning = predicted_bytes(distil(tiny_job, {"trained_by": {"name": "dacs"}}), 1)
    teacher = sum(p.numel() for p in build_segmenter(TEACHER, 4).parameters()) * 4
    assert learning.parameters - frozen.parameters > 0.9 * teacher
    assert learning.optimizer - frozen.optimizer > 0.9 * teacher


def test_a_teacher_that_cannot_be_built_is_named_by_its_key(tiny_job: dict[str, Any]) -> None:
    job = distil(tiny_job, {"model": {**TEACHER, "encoder": "resnot"}, "uri": "large"})
    with pytest.raises(JobError, match=r"^method.teacher.model.encoder: expected .* 'resnot'"):
        check_networks(job)
    own = {"model": {**TEACHER, "encoder": "vit_small_patch16_dinov3", "weights": "imagenet"}}
    job = distil(tiny_job, {**own, "trained_by": {"name": "dacs"}})
    with pytest.raises(JobError, match=r"^method.teacher.model.accept_license: expected 'dinov3"):
        check_networks(job)
    distilled = "distillation={encoder: vit_small_patch16_dinov3}"
    with pytest.raises(JobError, match=r"^distillation.accept_license: expected 'dinov3-license'"):
        check_networks(job_of(tiny_job, distilled))


@pytest.mark.parametrize(
    ("metrics", "most", "text"),
    [
        ({"miou": 0.6, "teacher/miou": 0.625}, 2.0, "2.50 points below .*: more than method.max_"),
        ({"miou": 0.6, "teacher/miou": 0.615}, 2.0, "1.50 points below .*: within method.max_gap"),
        ({"miou": 0.7, "teacher/miou": 0.6}, None, "10.00 points above its teacher's, 60.00%$"),
    ],
)
def test_the_gap_is_that_of_one_evaluation(
    metrics: dict[str, float], most: float | None, text: str
) -> None:
    gap = gap_of(metrics, "student", {"max_gap_points": most})
    assert gap is not None
    assert re.search(text, gap.text())


def test_a_resumed_teacher_that_learns_is_not_decomposed_again(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has its adapters, and what SoMA took out of its weights."""
    started: list[Segmenter] = []
    monkeypatch.setattr(Segmenter, "start_adapters", lambda self: started.append(self))
    adapters = {"kind": "soma", "rank": 2}
    model = {"architecture": "linear", "encoder": "test_vit", "weights": "none"}
    taught = {"model": {**model, "adapters": adapters}, "trained_by": {"name": "dacs"}}
    job = distil(tiny_job, taught)
    for resumed, times in ((True, 0), (False, 1)):
        assert teacher_network.build_teacher(job, Stores(), place, resumed) is not None
        assert len(started) == times


def test_without_two_scores_there_is_no_gap() -> None:
    assert gap_of({"miou": 0.5}, "student", {}) is None
    assert gap_of({"miou": 0.5, "teacher/miou": float("nan")}, "student", {}) is None
    assert gap_of({"ema/miou": 0.5, "teacher/miou": 0.6}, "student", {}) is None
    assert gap_of({"ema/miou": 0.5, "teacher/miou": 0.6}, "ema", {}) is not None


def test_a_registered_model_is_a_teacher_by_its_best_checkpoint(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {BEST_URI_TAG: str(planted(tiny_job))}
    asked: list[str] = []

    def found(wanted: str, _tracking_uri: str) -> FoundRun:
        asked.append(wanted)
        return FoundRun("id", "run", job, tags, {})

    monkeypatch.setattr(teacher_network, "find_run", found)
    job = distil(tiny_job, {"uri": "models:/large@best"})
    assert "method.teacher.uri" not in job.uris()
    assert teacher_network.build_teacher(job, Stores(), place) is not None
    assert asked == ["models:/large@best"]
    tags.clear()
    with pytest.raises(JobError, match=r"method.teacher.uri: expected a model with a checkpoint"):
        teacher_network.build_teacher(job, Stores(), place)
