"""A run is read from its folder alone."""

import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import DataError, JobError
from adapt.report.history import TRAIN, History
from adapt.report.run_record import RunRecord, read_run
from adapt.trainer.resume import history_of
from storage.store import Store
from storage.stores import Stores
from tests.report.runs import made_run, session, spec_of

WEIGHTS = {"w": torch.ones(1)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Stores().open(str(tmp_path / "runs" / "made"))


def save(store: Store, step: int, history: str, spec: str | None = None) -> None:
    spec = spec or spec_of("made", "cityscapes19")
    RunFolder(store).save(Snapshot(Moment(step, 0, 0.0), {}, WEIGHTS, spec, {}, history=history))


def history_text(*steps: int) -> str:
    history = History()
    history.start_session(session(), 0)
    for step in steps:
        history.log(TRAIN, step, {"train/loss.main": 1.0})
    return history.text()


def test_the_newest_checkpoint_is_read(store: Store) -> None:
    save(store, 10, history_text(10))
    save(store, 20, history_text(10, 20))
    run = read_run(store)
    assert (run.name, run.step, run.steps, run.network) == ("made", 20, 4000, "student")
    assert list(run.history.curves[TRAIN].rows) == [10, 20]
    assert run.classes == LABEL_SPACES["cityscapes19"] and run.uri == store.uri


def test_a_damaged_history_is_skipped_for_the_one_before_it(store: Store, tmp_path: Path) -> None:
    save(store, 10, history_text(10))
    save(store, 20, history_text(10, 20))
    (tmp_path / "runs/made/step-00000020/history.jsonl.gz").write_bytes(b"cut")
    assert read_run(store).step == 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"[]\n" * 999)[:-9], "Compressed file ended before the end-of-stream"),
        (b"<html>", "Not a gzipped file"),
        (gzip.compress(b"\xff"), "'utf-8' codec can't decode"),
        (gzip.compress(b"{"), "Expecting property name"),
        (gzip.compress(b'{"kind": "train", "step": 1, "values": {"a": "b"}}'), "line 1.values.a:"),
    ],
    ids=["cut", "page", "bytes", "half", "text"],
)
def test_a_history_that_was_stored_damaged_is_named(
    store: Store, content: bytes, reason: str
) -> None:
    """Its sha256 fits the manifest. A job resumes all the same."""
    save(store, 10, history_text(10))
    file, manifest = "step-00000010/history.jsonl.gz", "step-00000010/manifest.json"
    before = hashlib.sha256(store.get(file)).hexdigest().encode()
    store.put(file, content)
    after = hashlib.sha256(content).hexdigest().encode()
    store.put(manifest, store.get(manifest).replace(before, after))
    with pytest.raises(DataError) as caught:
        read_run(store)
    expected = f"{store.uri}/{file}: expected a run's history, got a damaged file: {reason}"
    assert str(caught.value).startswith(expected)
    assert caught.value.fix == "restore it from a copy of the run"
    assert history_of(RunFolder(store), "step-00000010").text() == History().text()


@pytest.mark.parametrize("older", [False, True])
def test_a_folder_without_a_history_is_refused(store: Store, older: bool) -> None:
    if older:
        save(store, 10, "")
    reason = "they are of an older version" if older else "there is none"
    with pytest.raises(DataError, match=f"a checkpoint that has a history, got none .{reason}"):
        read_run(store)


def test_another_file_than_a_spec_is_refused(store: Store) -> None:
    save(store, 10, history_text(10), "seed: 1\n")
    with pytest.raises(JobError, match="expected the resolved spec of a run, got another file"):
        read_run(store)


def test_hours_and_price_are_those_of_all_sessions() -> None:
    run = made_run()
    run.history.sessions.append({**session(device="cpu", nodes=2), "step": 9, "seconds": 1800.0})
    assert run.spent.seconds == 7200 and run.spent.gpu_hours == 3.0
    assert run.spent.cost(2.0) == 2.0 * (1.5 + 2 * 0.5)


def test_the_last_evaluation_is_shown_where_none_counts() -> None:
    history = History()
    history.log_evaluation({"step": 7, "record": {"iou": {"road": 0.5}}}, float("nan"))
    run = RunRecord.of(spec_of("made", "cityscapes19"), history, "runs/made")
    assert run.shown is not None and run.shown["step"] == 7
    assert run.shown_iou() == {"road": 0.5} and run.first_iou() == (0, {})
