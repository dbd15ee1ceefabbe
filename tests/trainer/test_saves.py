"""Saves at the edges: stops while waiting and evaluating, a kill before a mark."""

from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
import torch

from adapt.batch import Sample
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.saved import Saved
from adapt.checkpoint.snapshot import Snapshot
from adapt.data.packed.packed_split import PackedSplit
from adapt.engine.engine import Engine
from adapt.errors import Interrupted, JobError
from adapt.places import Place
from adapt.stream.host_batch import Decoded
from adapt.stream.stream import Stream
from adapt.trainer.run import run_job
from storage.errors import StoreError
from storage.stores import Stores
from tests.trainer.jobs import assert_same_weights, job_of, run


@pytest.mark.slow
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
    assert_same_weights(calm, job)


@pytest.mark.slow
@pytest.mark.parametrize(("every", "stored"), [(1, "the checkpoint of step 1"), (9, "no check")])
def test_a_stop_whose_save_fails_says_what_is_stored(
    every: int,
    stored: str,
    tiny_job: dict[str, Any],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, stop = job_of(tiny_job, f"checkpoint.every_steps={every}"), Event()
    trained, save = Engine.step, RunFolder.save

    def step(engine: Engine, *batches: Any) -> Any:
        if engine.step_count == 2:
            stop.set()
        return trained(engine, *batches)

    def failing(folder: RunFolder, snapshot: Snapshot) -> Saved:
        if snapshot.step > 1:
            raise StoreError("runs: the disk is full", fix="free space on it")
        return save(folder, snapshot)

    monkeypatch.setattr(Engine, "step", step)
    monkeypatch.setattr(RunFolder, "save", failing)
    told = f"step 3, which could not be saved; {stored}.* is stored: runs: the disk is full"
    with pytest.raises(Interrupted, match=told):
        run_job(job, replace(place, grace_s=2.0), stop)


@pytest.mark.slow
def test_a_stop_inside_an_evaluation_repeats_it(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapt.trainer import evaluator

    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    expected, _ = run(calm, place)
    job = job_of(tiny_job)
    evaluate, stop = evaluator.evaluate, Event()

    def stopping(*args: Any, **kwargs: Any) -> Any:
        stop.set()
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(evaluator, "evaluate", stopping)
    with pytest.raises(Interrupted, match="stopped while evaluating step 3"):
        run_job(job, place, stop)
    monkeypatch.undo()
    outcome, _ = run(job, place)
    assert outcome == expected


@pytest.mark.slow
def test_a_kill_between_a_new_best_and_its_mark_loses_no_best(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = job_of(tiny_job, f"checkpoint.uri={tmp_path / 'calm'}")
    expected, _ = run(calm, place)
    job = job_of(tiny_job)

    def killed(*given: Any) -> None:
        raise StoreError("the process ends here")

    monkeypatch.setattr(RunFolder, "mark_best", killed)
    monkeypatch.setattr("adapt.trainer.trainer.RETRY_TIME_S", 2.0)
    with pytest.raises(StoreError):
        run(job, place)
    monkeypatch.undo()
    outcome, _ = run(job, place)
    assert outcome == expected


@pytest.mark.slow
def test_a_score_that_is_no_number_is_never_the_best(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapt.trainer import evaluator

    evaluate, finite = evaluator.evaluate, iter([False, True, False])

    def evaluated(*given: Any, **named: Any) -> Any:
        found = evaluate(*given, **named)
        return found._replace(score=found.score._replace(finite=next(finite)))

    monkeypatch.setattr(evaluator, "evaluate", evaluated)
    job = job_of(tiny_job, "evaluate.every_steps=2", "evaluate.pictures=0")
    outcome, _ = run(job, place)
    assert outcome.best is not None and 0 <= outcome.best.score <= 1
    assert outcome.best.name.startswith("step-00000004")


def test_a_job_none_of_whose_steps_was_taken_has_failed(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_all_finite", lambda *_given: torch.tensor(False))
    job = job_of(tiny_job, "train.steps=2")
    with pytest.raises(JobError, match="train: expected steps that move the networks, got 2 of"):
        run(job, place)
    assert RunFolder(Stores().open(f"{job.checkpoint.uri}/tiny")).best() is None
    monkeypatch.undo()
