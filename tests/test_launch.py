"""One node's processes: exit codes, signals, ranks that vanish."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapt.launch import Ending, exit_code_of
from tests.commands import ROOT

RANK = """
import os, pathlib, signal, sys, time
from adapt.launch import record_ending
rank, folder = int(os.environ["RANK"]), pathlib.Path(os.environ["SEGADAPT_STATUS_DIR"])
def end(code):
    record_ending(folder, rank, code)
    sys.exit(code)
"""
LAUNCH = """
import os, sys
from adapt.launch import launch
sys.exit(launch(sys.argv[1:], 2, 12, os.environ))
"""


def start(body: str, tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "rank.py"
    script.write_text(RANK + body)
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> int:
    try:
        process.communicate(timeout=90)
    finally:
        process.kill()
    return process.returncode


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75])
def test_the_exit_code_of_ranks_gets_through_torchrun(code: int, tmp_path: Path) -> None:
    assert ended(start(f"end({code})", tmp_path)) == code


def test_the_first_failure_counts_not_who_was_lost_by_it(tmp_path: Path) -> None:
    body = "time.sleep(0 if rank else 1)\nend(3 if rank else 75)"
    assert ended(start(body, tmp_path)) == 3


def test_a_rank_that_vanishes_ends_with_137(tmp_path: Path) -> None:
    body = "os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)"
    assert ended(start(body, tmp_path)) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_ranks_and_a_second_one_does_no_harm(
    number: signal.Signals, tmp_path: Path
) -> None:
    body = (
        "def save(*_):\n    time.sleep(2)\n    end(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    process = start(body, tmp_path)
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)
    assert ended(process) == 75


@pytest.mark.parametrize(
    ("torchrun", "codes", "asked", "expected"),
    [
        (0, [0, 0], False, 0),
        (1, [75, 4], False, 4),
        (1, [2, 3], False, 2),
        (1, [75, 75], False, 75),
        (1, [75], False, 137),
        (1, [75], True, 75),
        (-9, [], False, 137),
        (1, [], True, 75),
    ],
)
def test_what_endings_come_to(torchrun: int, codes: list[int], asked: bool, expected: int) -> None:
    found = [Ending(rank, code, float(rank)) for rank, code in enumerate(codes)]
    assert exit_code_of(torchrun, found, 2, asked) == expected
