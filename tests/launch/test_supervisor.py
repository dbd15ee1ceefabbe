"""The supervisor of a node over real processes: exit codes, signals, stalls, failures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from adapt.checkpoint.processes import is_alive
from tests.chaos import descendants
from tests.commands import ROOT, finish, start
from tests.conftest import tiny_values
from tests.launch.rank_scripts import await_ready, run_ranks, wait_until


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75])
def test_the_exit_code_of_ranks_is_the_supervisors(
    code: int, processes: int, tmp_path: Path
) -> None:
    ended = finish(run_ranks(f"end({code})", tmp_path, processes))
    assert ended.code == code, ended.err
    failure = tmp_path / "failure"
    assert failure.exists() == (code not in (0, 75))
    if failure.exists():
        assert failure.read_text().startswith(
            "Kind: a problem"
            if processes == 1
            else ("Kind: rank 0: a problem", "Kind: rank 1: a problem")
        )
        assert failure.read_text().endswith("long end") and failure.stat().st_size == 4000


def test_the_first_failure_counts_not_who_was_lost_by_it(tmp_path: Path) -> None:
    body = "time.sleep(0 if rank else 1)\nend(3 if rank else 75)"
    assert finish(run_ranks(body, tmp_path)).code == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGKILL, "lower stream.memory_gb"), (signal.SIGSEGV, "SIGSEGV")],
)
def test_a_rank_that_dies_of_a_signal(number: signal.Signals, said: str, tmp_path: Path) -> None:
    body = (
        f"os.kill(os.getpid(), {int(number)}) if rank else on_stop(lambda *_: end(75))\n"
        "time.sleep(60)"
    )
    ended = finish(run_ranks(body, tmp_path))
    assert ended.code == 128 + number
    assert "rank 1 died of" in ended.err and said in ended.err
    assert said in (tmp_path / "failure").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_ranks_and_a_second_one_does_no_harm(
    number: signal.Signals, tmp_path: Path
) -> None:
    body = "on_stop(lambda *_: (time.sleep(2), end(75)))\ntime.sleep(60)"
    process = run_ranks(body, tmp_path)
    await_ready(process, 2)
    process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert f"{number.name}: already stopping" in ended.err and "Traceback" not in ended.err
    assert not (tmp_path / "failure").exists()


@pytest.mark.slow
def test_a_rank_that_does_not_stop_is_killed_and_the_job_goes_on_later(tmp_path: Path) -> None:
    process = run_ranks("on_stop(signal.SIG_IGN)\ntime.sleep(60)", tmp_path, processes=1)
    await_ready(process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process, timeout_s=30)
    assert ended.code == 75 and "it resumes from the last durable checkpoint" in ended.err


STUCK = {
    "asleep": "def stuck_here(): time.sleep(600)",
    "holding Python's lock": "def stuck_here(): ctypes.PyDLL(None).sleep(600)",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STUCK)
def test_a_stalled_rank_leaves_its_stacks_and_ends_the_job(how: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values("nowhere", "runs")))
    beating = "while not rank:\n    status.beat()\n    time.sleep(0.5)\n"
    process = run_ranks(f"{STUCK[how]}\n{beating}stuck_here()", tmp_path, stall_s=4)
    ended = finish(process, timeout_s=60)
    assert ended.code == 75, ended.err
    assert "stuck_here" in ended.err and "rank-0:" in ended.err
    (stored,) = (tmp_path / "runs" / "tiny" / "stalls").glob("node-0-*.txt")
    assert "stuck_here" in stored.read_text()
    pids = [int((tmp_path / f"pid-0-{rank}").read_text()) for rank in (0, 1)]
    wait_until(lambda: not any(map(is_alive, pids)), timeout_s=5)


@pytest.mark.slow
def test_ranks_that_beat_are_not_stalled(tmp_path: Path) -> None:
    body = "for _ in range(16):\n    status.beat()\n    time.sleep(0.5)\nend(0)"
    assert finish(run_ranks(body, tmp_path, processes=1, stall_s=4)).code == 0


def test_a_killed_supervisor_takes_its_ranks_along(tmp_path: Path) -> None:
    process = run_ranks("on_stop(signal.SIG_DFL)\ntime.sleep(600)", tmp_path, processes=1)
    await_ready(process)
    process.kill()
    pid = int((tmp_path / "pid-0-0").read_text())
    wait_until(lambda: not is_alive(pid), timeout_s=15)
    finish(process)


def test_a_failure_is_known_although_the_disk_is_full(tmp_path: Path) -> None:
    body = """
def full(*_): raise OSError(28, "No space left on device")
pathlib.Path.write_text = full
end(3)
"""
    ended = finish(run_ranks(body, tmp_path, processes=1))
    assert (
        ended.code == 3
        and "Traceback" not in ended.err.partition("rank 0 ended with exit code 3 and reported")[2]
    ), ended.err


APART = ["unshare", "--pid", "--fork", "--kill-child"]
"""A container's first process is one whose signals the system drops where it handles none."""


@pytest.mark.parametrize("apart", [APART, []], ids=["first process", "any process"])
def test_a_stop_before_anything_began_is_an_interruption(
    apart: list[str], tiny_uri: str, tmp_path: Path
) -> None:
    if apart and subprocess.call([*apart, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("this user may make no process namespace")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(tiny_uri, "runs")))
    command = [*apart, sys.executable, ROOT / "entrypoint.py", "run", "tiny.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(map(handles_sigterm, ours(process, apart))), timeout_s=30)
    for pid in ours(process, apart):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(30) == 75


def ours(process: "subprocess.Popen[str]", apart: list[str]) -> list[int]:
    return descendants(process.pid) if apart else [process.pid]


def handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_a_job_is_supervised_stopped_and_goes_on(tiny_uri: str, tmp_path: Path) -> None:
    values = tiny_values(tiny_uri, "runs")
    values["train"]["steps"] = 12
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))

    def run() -> "subprocess.Popen[str]":
        return start("run", "tiny.yaml", "--json", folder=tmp_path)

    process = run()
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    stopped = finish(process)
    assert stopped.code == 75 and "everything is saved" in stopped.err, stopped.err
    again = finish(run())
    assert again.code == 0 and '"step": 12' in again.out, again.err
    for line in (
        "images of source, ",
        "advent trains deeplab_v2 on test_resnet for 12 steps on cpu",
    ):
        assert line in again.err
    assert "resumed at step" in again.err and "Traceback" not in stopped.err + again.err


def test_a_mistake_is_told_before_any_rank_starts(tiny_uri: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(tiny_uri, "runs")))
    ended = finish(start("run", "tiny.yaml", "--set", "train.steps=0", folder=tmp_path))
    assert ended.code == 2 and ended.err.count("train.steps") == 1
