"""A job stopped anywhere resumes bit for bit, or refuses to."""

import logging
import shutil
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.data.writing.pack import pack
from adapt.errors import Interrupted, JobError
from adapt.places import Place
from adapt.trainer.run import run_job
from storage.stores import Stores
from tests.conftest import small_method, write_raw_folders
from tests.trainer.jobs import assert_same_weights, job_of, run, stopped_and_calm


@pytest.mark.slow
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
    pack("folders", tmp_path / "raw", Stores().open(str(tmp_path / "packed")), "train", name="tiny")
    begun: list[str] = []
    with pytest.raises(JobError, match=r"target: expected dataset_id '[0-9a-f]{64}', .* got '"):
        run_job(
            job_of(tiny_job, f"target.uri={tmp_path / 'packed'}"),
            place,
            Event(),
            begin=lambda: begun.append("the run in MLflow"),
        )
    assert not begun, "a refused start leaves the run as it is"
    for change, message in [
        ("seed=7", "^seed: "),
        ("source.batch_size=4", r"^source\.batch_size: "),
    ]:
        with pytest.raises(JobError, match=message):
            run(job_of(tiny_job, change), place)


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (3,), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("method", ["advent", "source_only"])
def test_a_job_stopped_anywhere_ends_bit_identical(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, method: str, stops: tuple[int, ...]
) -> None:
    values = {**tiny_job, "method": small_method(method)}
    stopped_and_calm(values, place, tmp_path, stops=stops)


@pytest.mark.slow
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
    assert "step-00000004: damaged, skipped" in caplog.text and seen[0].step == 4
    assert_same_weights(calm, job)


@pytest.mark.slow
def test_a_changed_spec_is_refused_by_key(tiny_job: dict[str, Any], place: Place) -> None:
    run(job_of(tiny_job), place)
    with pytest.raises(
        JobError, match=r"^optim.lr: expected 0.00025, the value of the run's checkpoint, got 0.1"
    ):
        run(job_of(tiny_job, "optim.lr=0.1"), place)


@pytest.mark.slow
def test_a_run_is_prolonged_where_its_schedule_permits(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}", "train.steps=4")
    calm = job_of(calm.resolved(), "optim.schedule_steps=6", "validation=null")
    _, expected = run(calm, place)
    job = job_of(tiny_job, "train.steps=2", "optim.schedule_steps=6", "validation=null")
    run(job, place)
    outcome, seen = run(job_of(job.resolved(), "train.steps=4"), place)
    assert outcome.step == 4 and [p.losses for p in seen] == [p.losses for p in expected[2:]]
    assert_same_weights(calm, job)


def test_weights_that_are_no_numbers_resume_nothing(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    job = job_of(tiny_job, "train.steps=1", "validation=null")
    run(job, place)
    folder = RunFolder(Stores().open(f"{job.checkpoint.uri}/tiny"))
    state = folder.load(folder.names()[-1])
    name, tensor = next(iter(state["engine"]["method"].items()))
    tensor.view(-1)[0] = float("nan")
    moment = Moment(1, 0, 0.0)
    folder.save(Snapshot(moment, state, {"w": torch.ones(1)}, job.to_yaml(), {}))
    with pytest.raises(JobError, match=rf"state.pt: expected finite numbers, .* in {name}\. Fix:"):
        run(job, place)
