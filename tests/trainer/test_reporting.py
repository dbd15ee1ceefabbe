"""The report of a run: written at its end, by a history that no stop and no kill changes."""

import logging
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from adapt.errors import Interrupted, JobError
from adapt.places import Place
from adapt.report.history import TRAIN, VALIDATION
from adapt.report.run_record import RunRecord, read_run
from adapt.spec.job_spec import JobSpec
from adapt.trainer import reporting
from adapt.trainer.progress import JobProgress
from adapt.trainer.reporting import _keep
from adapt.trainer.run import run_job
from storage.errors import StoreError
from storage.local import LocalStore
from storage.stores import Stores
from tests.trainer.jobs import job_of, run

FAST = "speed/"


class Killed(BaseException):
    """The end of a process that saves nothing, as far as its checkpoints can tell."""


def record(job: JobSpec) -> RunRecord:
    return read_run(Stores().open(f"{job.checkpoint.uri}/{job.name}"))


def page_of(job: JobSpec) -> Path:
    return Path(job.checkpoint.uri) / job.name / "report.html"


def metrics(job: JobSpec) -> list[Any]:
    """All rows but for times, and the evaluations that are shown, without their files."""
    history = record(job).history
    rows = [
        (kind, step, {name: v for name, v in values.items() if not name.startswith(FAST)})
        for kind in (TRAIN, VALIDATION)
        for step, values in history.curves[kind].rows.items()
    ]
    return [*rows, history.best, history.last]


def test_a_run_leaves_one_page_with_all_of_it(tiny_job: dict[str, Any], place: Place) -> None:
    job = job_of(tiny_job)
    outcome, _ = run(job, place)
    page = page_of(job).read_text()
    assert "step 6 of 6, finished" in page and "band 3" in page
    history = record(job).history
    assert list(history.curves[TRAIN].rows) == [1, 2, 3, 4, 5, 6]
    assert list(history.curves[VALIDATION].rows) == [3, 6]
    assert outcome.best is not None and history.best is not None
    assert history.best["step"] == outcome.best.step
    assert history.best["record"]["miou"] == outcome.best.score
    shown, worst = history.best["pictures"], history.best["worst"]
    assert len(shown) == 1 and len(worst) == 4
    assert [one["miou"] for one in worst] == sorted(one["miou"] for one in worst)
    session = history.sessions[0]
    assert session["data"]["validation"]["samples"] == 5 and session["versions"]["torch"]
    assert (session["platform"], session["ranks"], session["step"]) == ("local", 1, 0)


@pytest.mark.slow
def test_stops_and_kills_leave_the_history_of_a_calm_run(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    run(calm, place)
    job = job_of(tiny_job, "checkpoint.every_steps=2")
    with pytest.raises(Interrupted):
        run(job, place, stop_at=1)
    assert not page_of(job).exists(), "a stop has no time for it"
    for killed_at in (4, 5):

        def kill(progress: JobProgress, at: int = killed_at) -> None:
            if progress.step == at:
                raise Killed

        with pytest.raises(Killed):
            run_job(job, place, Event(), kill)
    run(job, place)
    assert metrics(job) == metrics(calm)
    assert "step 6 of 6, finished" in page_of(job).read_text()
    sessions = record(job).history.sessions
    assert len(sessions) == 4 and sessions[0]["step"] == 0 and sessions[1]["step"] == 1


@pytest.mark.slow
def test_a_damaged_history_costs_the_curves_not_the_run(
    tiny_job: dict[str, Any], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(tiny_job)
    with pytest.raises(Interrupted):
        run(job, place, stop_at=4)
    (file,) = (Path(job.checkpoint.uri) / "tiny").glob("step-00000004*/history.jsonl.gz")
    file.write_bytes(b"cut")
    with caplog.at_level(logging.WARNING):
        run(job, place)
    assert "its history is damaged, the report's curves begin here" in caplog.text
    assert list(record(job).history.curves[TRAIN].rows) == [5, 6]


def test_the_report_can_be_left_out(tiny_job: dict[str, Any], place: Place) -> None:
    job = job_of(tiny_job, "train.steps=1", "report.enabled=false")
    run(job, place)
    last = record(job).history.last
    assert not page_of(job).exists() and last is not None
    assert last["pictures"] == [] == last["worst"]


@pytest.mark.slow
def test_a_baseline_beside_the_run_is_compared_with(
    tiny_job: dict[str, Any], place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    run(job_of(tiny_job, "name=before", "train.steps=1"), place)
    job = job_of(tiny_job, "train.steps=1", "report.baseline=before")
    assert job.uris()["report.baseline"] == f"{job.checkpoint.uri}/before"
    run(job, place)
    assert "Compared with before, step 1." in page_of(job).read_text()
    with caplog.at_level(logging.WARNING):
        run(job_of(tiny_job, "name=alone", "train.steps=1", "report.baseline=missing"), place)
    assert "report.baseline: " in caplog.text and "a checkpoint that has a history" in caplog.text
    assert "There is no other evaluation" in page_of(job_of(tiny_job, "name=alone")).read_text()


def test_a_model_folder_that_is_none_costs_a_warning_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model").write_text("a file")
    with caplog.at_level(logging.WARNING):
        _keep(b"page", tmp_path / "model")
    assert "the report cannot be written there: File exists" in caplog.text
    _keep(b"page", None)
    _keep(b"page", tmp_path / "new")
    assert (tmp_path / "new" / "report.html").read_bytes() == b"page"


def fail(*_: object) -> str:
    raise JobError("it is broken")


def crash(*_: object) -> str:
    raise KeyError("it is broken")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (fail, "the report was not written (it is broken). Fix: run `segadapt report "),
        (crash, "the report was not written (it took too long or has a fault). Fix: run "),
    ],
)
def test_a_report_that_fails_is_a_warning(
    tiny_job: dict[str, Any],
    place: Place,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    broken: Any,
    message: str,
) -> None:
    monkeypatch.setattr(reporting, "run_page", broken)
    with caplog.at_level(logging.WARNING):
        outcome, _ = run(job_of(tiny_job, "train.steps=1"), place)
    assert outcome.step == 1 and message in caplog.text


def test_a_store_that_refuses_the_page_leaves_it_in_mlflow(
    tiny_job: dict[str, Any],
    place: Place,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = LocalStore.put

    def refuse(self: LocalStore, key: str, data: bytes) -> None:
        if key == "report.html":
            raise StoreError("the disk is full")
        put(self, key, data)

    monkeypatch.setattr(LocalStore, "put", refuse)
    with caplog.at_level(logging.WARNING):
        run(job_of(tiny_job, "train.steps=1"), place)
    assert "the report is in MLflow alone: the disk is full. Fix: run `segadapt" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_report_that_hangs_does_not_hold_up_the_end(
    tiny_job: dict[str, Any],
    place: Place,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end, beats = Event(), [0]

    def hang(*_: object) -> str:
        end.wait(60)
        raise JobError("too late")

    def beat() -> None:
        beats[0] += 1

    monkeypatch.setattr(reporting, "run_page", hang)
    monkeypatch.setattr(reporting, "REPORT_S", 1.0)
    with caplog.at_level(logging.WARNING):
        outcome = run_job(job_of(tiny_job, "train.steps=1"), place, Event(), beat=beat)
    end.set()
    assert outcome.step == 1 and "it took too long or has a fault" in caplog.text
    assert beats[0] > 3, "the watchdog knows that the job lives"
