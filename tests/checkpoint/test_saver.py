"""Saving in the background: in order, one at a time, never in training's way, never lost."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adapt.checkpoint import saver as saving
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.saved import Saved
from adapt.checkpoint.saver import Saver
from adapt.checkpoint.snapshot import Moment, Snapshot
from storage.errors import SilentStore, StoreError, StoreUnavailable, WrongAnswer
from storage.retry import Retry
from storage.stores import Stores


class Gate:
    """A run's folder whose saves wait for permission, or are refused."""

    def __init__(self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.refuse = threading.Event(), 0
        self.error: StoreError = StoreUnavailable("the store is away")
        self.steps: list[int] = []
        self.at_once = self.most = 0
        save = folder.save

        def gated(snapshot: Snapshot) -> Saved:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            try:
                assert self.open.wait(30)
                if self.refuse:
                    self.refuse -= 1
                    raise self.error
                self.steps.append(snapshot.step)
                return save(snapshot)
            finally:
                self.at_once -= 1

        monkeypatch.setattr(folder, "save", gated)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(Stores().open(str(tmp_path / "run")))


@pytest.fixture
def gate(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(folder, monkeypatch)


def snapshot(step: int, score: float | None = None) -> Snapshot:
    weights = {"w": torch.full((3,), float(step))}
    moment = Moment(step, 0, time.monotonic())
    return Snapshot(moment, {"step": step}, weights, "seed: 1\n", {}, score).copied()


def unheard(_saved: Saved, _snapshot: Snapshot, _kept: Sequence[str]) -> None:
    """Nobody keeps a list of what is stored."""


def saver(folder: RunFolder, keep: int = 9) -> Saver:
    return Saver(folder, keep, lambda _saved, _snapshot: None, unheard)


@pytest.fixture(autouse=True)
def savers_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every saver's thread ends with its test; it would log into what the next test reads."""
    built: list[Saver] = []
    build = Saver.__init__

    def noted(self: Saver, *values: Any) -> None:
        build(self, *values)
        built.append(self)

    monkeypatch.setattr(Saver, "__init__", noted)
    yield
    for one in built:
        one.close()
        one._thread.join(30)
        assert not one._thread.is_alive()


def quiet() -> None:
    """Nobody watches."""


def test_submitting_waits_for_nothing(folder: RunFolder, gate: Gate) -> None:
    one = saver(folder)
    started_s = time.monotonic()
    one.submit(snapshot(1))
    assert time.monotonic() - started_s < 1 and one.busy and one.durable is None
    gate.open.set()
    durable = one.finish(None, 30, quiet)
    assert durable is not None and durable.step == 1 and not one.busy
    assert folder.names() == ["step-00000001"]


def test_one_upload_at_a_time_and_the_newest_wait_wins(folder: RunFolder, gate: Gate) -> None:
    one = saver(folder)
    one.submit(snapshot(1))
    while not gate.at_once:
        time.sleep(0.01)
    for step in (2, 3, 4):
        one.submit(snapshot(step))
    gate.open.set()
    one.finish(None, 30, quiet)
    assert gate.steps == [1, 4] and gate.most == 1


def test_a_failed_save_is_a_warning_and_the_next_one_works(
    folder: RunFolder, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    one = saver(folder)
    gate.open.set()
    gate.refuse = 1
    with caplog.at_level(logging.WARNING):
        one.submit(snapshot(1))
        one.finish(None, 30, quiet)
    assert "checkpoint of step 1 could not be stored, training continues" in caplog.text
    assert one.durable is None and folder.names() == []
    one.submit(snapshot(2))
    one.finish(None, 30, quiet)
    assert folder.names() == ["step-00000002"]


def test_a_best_that_failed_is_tried_until_it_is_stored_and_marked(
    folder: RunFolder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "RETRY", Retry(longest_wait_s=0.05))
    marked: list[tuple[str, float | None]] = []
    one = Saver(folder, 9, lambda saved, stored: marked.append((saved.name, stored.score)), unheard)
    gate.open.set()
    gate.refuse = 3
    one.submit(snapshot(1, score=0.5))
    one.finish(None, 30, quiet)
    best = folder.best()
    assert best is not None and (best.name, best.score) == ("step-00000001", 0.5)
    assert marked == [("step-00000001", 0.5)]


def test_an_earlier_checkpoint_is_marked_where_it_is_the_best_now(
    folder: RunFolder, gate: Gate
) -> None:
    marked: list[tuple[str, float | None]] = []
    one = Saver(folder, 1, lambda saved, stored: marked.append((saved.name, stored.score)), unheard)
    gate.open.set()
    for new in (
        snapshot(1, score=0.5)._replace(spared=(1,)),
        snapshot(2, score=0.6)._replace(spared=(1, 2)),
        snapshot(3, score=0.7)._replace(spared=(1, 3), best_step=1),
    ):
        one.submit(new)
        one.finish(None, 30, quiet)
    assert marked == [("step-00000001", 0.5), ("step-00000002", 0.6), ("step-00000001", 0.7)]
    best = folder.best()
    assert best is not None and (best.name, best.score) == ("step-00000001", 0.7)
    assert folder.names() == ["step-00000001", "step-00000003"]


def test_a_stop_ends_the_wait_for_a_save_under_way(folder: RunFolder, gate: Gate) -> None:
    one, asked = saver(folder), []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 1

    one.submit(snapshot(1))
    began_s = time.monotonic()
    assert one.finish(None, 60, quiet, stopped) is None and one.busy
    assert time.monotonic() - began_s < 30
    gate.open.set()
    one.finish(None, 30, quiet)
    assert not one.busy


@pytest.mark.parametrize("kind", [StoreUnavailable, SilentStore, WrongAnswer])
def test_the_last_save_is_tried_until_time_is_up(
    folder: RunFolder, gate: Gate, kind: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.error = kind("the store is away")
    monkeypatch.setattr(saving, "RETRY", Retry(longest_wait_s=0.05))
    one = saver(folder)
    gate.open.set()
    gate.refuse = 2
    durable = one.finish(snapshot(7), 30, quiet)
    assert durable is not None and durable.step == 7
    gate.refuse = 10**6
    with pytest.raises(StoreError, match="the store is away"):
        one.finish(snapshot(8), 0.5, quiet)
    assert folder.names() == ["step-00000007"]


@pytest.mark.parametrize("score", [None, 0.5])
def test_a_store_that_refuses_is_not_waited_for(
    folder: RunFolder, gate: Gate, score: float | None
) -> None:
    one = saver(folder)
    gate.open.set()
    gate.refuse, gate.error = 10**6, StoreError("no room")
    one.submit(snapshot(1, score))
    started_s = time.monotonic()
    with pytest.raises(StoreError, match="no room"):
        one.finish(snapshot(2), 60, quiet)
    assert time.monotonic() - started_s < 20


@pytest.mark.slow
def test_a_store_that_hangs_is_not_waited_for_longer_than_asked(
    folder: RunFolder, gate: Gate
) -> None:
    one, beats = saver(folder), []
    started_s = time.monotonic()
    with pytest.raises(StoreError, match=r"saving step 3 took more than 2 s"):
        one.finish(snapshot(3), 2, lambda: beats.append(1))
    assert 1.5 < time.monotonic() - started_s < 10 and len(beats) >= 2
    gate.open.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_saving_thread_is_not_waited_for(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "save", lambda _snapshot: {}["a bug"])
    one, started_s = saver(folder), time.monotonic()
    with pytest.raises(StoreError, match="saving step 1 took more than 60 s"):
        one.finish(snapshot(1), 60, quiet)
    assert time.monotonic() - started_s < 20
    with pytest.raises(AssertionError, match="the saving thread has ended"):
        one.submit(snapshot(2))


def test_a_later_moment_of_a_stored_step_is_stored_too(folder: RunFolder) -> None:
    one, first = saver(folder), snapshot(3)
    one.finish(first, 30, quiet)
    evaluated = first._replace(moment=first.moment._replace(evaluated_step=3))
    durable = one.finish(evaluated, 30, quiet)
    assert durable == evaluated.moment
    assert folder.names() == ["step-00000003", "step-00000003-02"]
    one.finish(evaluated, 30, quiet)
    assert len(folder.names()) == 2, "what is stored is not stored again"


def test_a_full_scratch_disk_stops_no_save(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: Any, **_named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    one = saver(folder)
    assert one.finish(snapshot(1), 30, quiet) is not None
    monkeypatch.undo()
    found = folder.newest_valid()
    assert found is not None and found[1] == {"step": 1}
