"""What ranks say of themselves, what it comes to, and what the entry point makes of errors."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import adapt.launch.rank_status
from adapt.cli.main import _failure
from adapt.launch.health import health
from adapt.launch.rank_status import (
    RankStatus,
    WorkerStatus,
    clear_leftovers,
    read_first_failure,
    read_statuses,
    write_first_failure,
)
from adapt.launch.verdict import verdict_of, write_failure
from adapt.launch.watch import Watch
from adapt.places import Place
from adapt.ranks import RankLost
from storage.errors import StoreError


@pytest.fixture(autouse=True)
def parent_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt.launch.rank_status, "die_with_parent", lambda: None)


def test_a_rank_tells_its_start_its_beats_and_its_end(tmp_path: Path) -> None:
    status = WorkerStatus(tmp_path, 3)
    (started,) = read_statuses(tmp_path)
    assert started.rank == 3 and started.exit_code is None
    status.beat()
    beat = tmp_path / "rank-3.beat"
    beat.unlink()
    status.beat()
    assert not beat.exists(), "at most one a second"
    status.ended(4, "DataError", "shard 7", "Traceback")
    (ended,) = read_statuses(tmp_path)
    assert ended[3:7] == (4, "DataError", "shard 7", "Traceback")


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status = WorkerStatus(None, 0)
    status.beat()
    status.ended(1)
    assert not list(tmp_path.iterdir())


def test_a_clock_set_back_stalls_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    status = WorkerStatus(tmp_path, 0)
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    status.expect_beats(10)
    watch, beat = Watch(tmp_path), tmp_path / "rank-0.beat"
    for age_s in (0, 8, 16, 24):
        now_s[0] = 100 + age_s
        beat.touch()
        os.utime(beat, (age_s, age_s))  # long before the start, by the file system's clock
        assert not watch.stalled()
    now_s[0] += 11
    assert [status.rank for status in watch.stalled()] == [0]


def ended(*codes: int | None) -> list[RankStatus]:
    """The statuses of two ranks of a node, or of its only one."""
    pairs = enumerate(codes)
    return [RankStatus(r, 1, float(r), code, local_ranks=len(codes)) for r, code in pairs]


def test_folders_of_earlier_lives_are_cleared(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, pid in (("mine", os.getpid()), ("gone", gone.pid), ("another", os.getppid())):
        (tmp_path / f"segadapt-status-{name}").mkdir()
        supervisor = json.dumps([pid, 1200])
        (tmp_path / f"segadapt-status-{name}/supervisor.json").write_text(supervisor)
    (tmp_path / "segadapt-status-new").mkdir()
    clear_leftovers(tmp_path)
    left = sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir())
    assert left == ["another", "new"]


@pytest.mark.parametrize(
    ("child", "codes", "first", "asked", "expected"),
    [
        (0, [0, 0], None, False, 0),
        (1, [75, 4], (1, 4), False, 4),
        (1, [2, 3], (1, 3), False, 2),
        (1, [75, 75], (0, 75), False, 75),
        (1, [75, None], (0, 75), False, 75),
        (1, [75, None], (1, -9), False, 137),
        (1, [75, None], (1, -11), True, 75),
        (1, [3, None], None, True, 3),
        (1, [None, None], (0, 7), False, 1),
        (1, [0, 0], (0, -11), False, 0),
        (-9, [], None, False, 137),
        (1, [], None, True, 75),
        (3, [None, None], None, False, 3),
        (3, [None, None], (0, 3), False, 3),
        (75, [None, None], None, False, 75),
        (134, [None, None], None, False, 1),
        (-9, [None], None, False, 137),
        (-11, [None], None, True, 75),
        (75, [75], None, False, 75),
        (4, [4], None, True, 4),
        (5, [None], None, False, 1),
    ],
)
def test_what_statuses_come_to(
    child: int,
    codes: list[int | None],
    first: tuple[int, int] | None,
    asked: bool,
    expected: int,
) -> None:
    verdict = verdict_of(child, ended(*codes), first, asked)
    assert verdict.exit_code == expected


@pytest.mark.parametrize(
    ("child", "statuses", "message"),
    [
        (2, [RankStatus(0, 1, 0, 2, "JobError", "a: b")], "a: b"),
        (2, [RankStatus(1, 1, 0, 2, "JobError", "a: b")], "rank 1: a: b"),
        (2, [RankStatus(0, 1, 0, 2, "JobError", "a: b", local_ranks=2)], "rank 0: a: b"),
        (-11, [RankStatus(0, 1, 0)], "rank 0 died of SIGSEGV. Fix: run the same command again: "),
        (-9, [], "the process of the ranks died of SIGKILL. Fix: the machine or the container"),
        (3, [RankStatus(0, 1, 0)], "rank 0 ended with exit code 3 and reported no reason, as on a"),
    ],
)
def test_verdicts_name_the_rank_where_there_are_several(
    child: int, statuses: list[RankStatus], message: str
) -> None:
    verdict = verdict_of(child, statuses, None, asked=False)
    assert verdict.message.startswith(message)
    assert verdict.shown == (message == "a: b"), "the only rank has printed its failure itself"


@pytest.mark.parametrize(
    ("child", "message"),
    [
        (-signal.SIGSEGV, "a rank was ended by SIGSEGV before it saved"),
        (-signal.SIGKILL, "not every rank ended within the grace"),
        (1, "not every rank ended within the grace"),
    ],
)
def test_a_stop_without_a_report_names_its_cause(child: int, message: str) -> None:
    verdict = verdict_of(child, [RankStatus(0, 1, 0)], None, asked=True)
    assert (verdict.exit_code, verdict.kind) == (75, "Interrupted")
    assert verdict.message.startswith(f"{message}. Fix: run the same command again")


@pytest.mark.parametrize(
    ("child", "codes"),
    [(75, [None]), (-15, []), (75, []), (1, [75, 75]), (1, []), (75, [75, None])],
)
def test_a_stop_before_the_first_step_says_no_more(child: int, codes: list[int | None]) -> None:
    assert verdict_of(child, ended(*codes), None, asked=True, late=False) == (75, "", "", "", False)


NEWER = '[0, 1, 2.0, null, "", "", "", 9.0, 1, "newer"]'


@pytest.mark.parametrize("text", [NEWER, "[0]", "{}", "3", '"text"', "{", ""])
def test_files_of_another_version_are_read_or_passed_over(text: str, tmp_path: Path) -> None:
    """The temporary folder is shared by all versions of a machine."""
    folder = tmp_path / "segadapt-status-other"
    folder.mkdir()
    (folder / "rank-0.json").write_text(text)
    for supervisor in (text, f'[{os.getppid()}, 1200.0, "newer"]'):
        (folder / "supervisor.json").write_text(supervisor)
        clear_leftovers(tmp_path)
        health(tmp_path, 10.0)
    found = read_statuses(folder)
    assert [status.stall_s for status in found] == ([9.0] if text == NEWER else [])


def test_a_process_that_starts_ranks_is_none_itself(tmp_path: Path) -> None:
    status = WorkerStatus(tmp_path, 0)
    status.withdraw()
    status.beat()
    status.ended(1, "Bug", "of the launcher")
    assert read_statuses(tmp_path) == [] and not list(tmp_path.glob("*.beat"))
    WorkerStatus(None, 0).withdraw()


def test_the_first_failure_is_noted(tmp_path: Path) -> None:
    assert read_first_failure(tmp_path) is None
    (tmp_path / "failure.json").touch()
    assert read_first_failure(tmp_path) is None, "an empty file is what a full disk leaves"
    write_first_failure(tmp_path, 1, -9)
    assert read_first_failure(tmp_path) == (1, -9)
    write_first_failure(tmp_path / "no such folder", 1, -9)


@pytest.mark.parametrize("size", [10, 5000])
def test_the_failure_file_keeps_the_message_and_the_last_bytes(size: int, tmp_path: Path) -> None:
    write_failure(tmp_path / "failure", "DataError", "shard 7", "x" * size + "end")
    text = (tmp_path / "failure").read_text()
    assert text.startswith("DataError: shard 7\n") and text.endswith("xend") and len(text) <= 4000
    write_failure(tmp_path / "no" / "folder", "Kind", "message")
    write_failure(None, "Kind", "message")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, "train.precision=bf16"),
        (
            OSError(errno.ENOSPC, "full", "/data/x"),
            3,
            "disk is full: /data/x. Fix: free space",
        ),
        (OSError(errno.ENOSPC, "full"), 3, "that of the output, or of a temporary file. Fix: free"),
        (OSError(errno.EROFS, "read-only", "/scratch/x"), 2, "SEGADAPT_SCRATCH_DIR"),
        (OSError(errno.EACCES, "denied", "/scratch/x"), 2, "SEGADAPT_SCRATCH_DIR"),
        (
            OSError(errno.EACCES, "denied", "/elsewhere/x"),
            2,
            "/elsewhere/x: denied. Fix: check the path",
        ),
        (OSError(errno.EIO, "input/output", "/elsewhere/x"), 2, "/elsewhere/x: input/output. Fix"),
        (StoreError("away"), 3, "away"),
        (RankLost("gone"), 75, "gone"),
        (ValueError("odd"), 1, "a bug"),
    ],
    ids=str,
)
def test_errors_end_with_the_code_that_fits_and_say_what_helps(
    error: Exception, code: int, said: str
) -> None:
    failed = _failure(error, Place("local", {}, Path("/scratch")))
    assert failed.exit_code == code and said in failed.message
    assert type(error).__name__ in failed.traceback_text
