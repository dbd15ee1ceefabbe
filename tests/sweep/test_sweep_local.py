"""Trials on this machine: their shares of GPUs and cores, and how a process ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapt.sweep.local import LocalTrial, shares


@pytest.mark.parametrize(
    ("slots", "gpus", "visible", "expected"),
    [
        (1, 4, None, ["0,1,2,3"]),
        (2, 4, None, ["0,1", "2,3"]),
        (3, 4, None, ["0", "1", "2"]),
        (4, 2, None, ["0", "1", "0", "1"]),
        (2, 2, "GPU-a, MIG-b", ["GPU-a", "MIG-b"]),
        (2, 1, "3", ["3", "3"]),
    ],
)
def test_slots_have_gpus_of_their_own_where_there_are_enough(
    slots: int, gpus: int, visible: str | None, expected: list[str]
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = shares(environment, slots, gpus, 8)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == expected


def test_without_gpus_slots_share_the_cores() -> None:
    assert shares({}, 2, 0, 8) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert shares({}, 16, 0, 8)[0] == {"OMP_NUM_THREADS": "1"}
    assert shares({"OMP_NUM_THREADS": "3"}, 2, 0, 8) == [{}, {}] and shares({}, 1, 0, 8) == [{}]


@pytest.mark.parametrize(
    ("code", "stopped", "state", "why"),
    [
        (0, False, "done", ""),
        (75, False, "interrupted", ""),
        (2, False, "failed", "exit code 2: JobError train.steps: expected more"),
        (130, True, "interrupted", ""),
        (0, True, "done", ""),
    ],
)
def test_an_exit_code_is_an_ending(
    code: int, stopped: bool, state: str, why: str, tmp_path: Path
) -> None:
    log = tmp_path / "t.log"
    log.write_text("begins\nJobError train.steps: expected more\nends\n")
    process = subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"])
    process.wait()
    trial = LocalTrial(process, log)
    if stopped:
        trial.stop()
    ending = trial.ended()
    assert ending is not None and (ending.state, ending.why) == (state, why)
