"""Ctrl-C at any moment of a command that is not a job: one line, and 130.

The moments are events of the process, seen in /proc, since times differ between machines.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import ROOT, environment_of, finish, start_python
from tests.launch.rank_scripts import wait_until

CONSOLE_SCRIPT = "import sys; from adapt.__main__ import main; sys.exit(main())"
PROGRAMS = {
    "segadapt": ("-c", CONSOLE_SCRIPT),
    "python -m adapt": ("-m", "adapt"),
    "entrypoint.py": (str(ROOT / "entrypoint.py"),),
}


def handles_sigterm(pid: int) -> bool:
    """The first thing that the program does."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def maps(library: str) -> Callable[[int], bool]:
    """True as soon as a process loads a library, in the middle of an import."""
    return lambda pid: library in Path(f"/proc/{pid}/maps").read_text()


def interrupted(program: str, moment: Callable[[int], bool], folder: Path) -> tuple[int, str]:
    """Exit code and stderr of `models --encoder resnet18` after Ctrl-C at a moment."""
    with subprocess.Popen(
        [sys.executable, *PROGRAMS[program], "models", "--encoder", "resnet18"],
        cwd=folder,
        env=environment_of(folder, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: moment(process.pid), timeout_s=60)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@pytest.mark.slow
@pytest.mark.cold_start
@pytest.mark.parametrize(
    ("program", "moment"),
    [
        ("segadapt", handles_sigterm),
        ("python -m adapt", maps("_multiarray_umath")),
        ("entrypoint.py", maps("libtorch_cpu")),
    ],
)
def test_ctrl_c_while_modules_load_is_one_line_and_130(
    program: str, moment: Callable[[int], bool], tmp_path: Path
) -> None:
    """numpy and torch answer an interrupt inside their imports with errors of their own."""
    code, messages = interrupted(program, moment, tmp_path)
    lines = [line for line in messages.splitlines() if not line.startswith("counting ")]
    assert (code, lines) == (130, ["Aborted."]), messages


SCRIPT = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import adapt.__main__ as program
import adapt.cli.main
def work():
    WORK
adapt.cli.main.main = work
sys.exit(program.main())
"""
PRESS = "os.kill(os.getpid(), signal.SIGINT)"
CLEANS_UP = f"""
    try:
        {PRESS}
    finally:
        print("cleaning up", flush=True)
        AGAIN
        print("cleaned up", flush=True)
"""


@pytest.mark.parametrize(
    ("again", "out"), [("pass", "cleaning up\ncleaned up\n"), (PRESS, "cleaning up\n")]
)
def test_a_command_cleans_up_and_ends_at_once_when_asked_again(
    again: str, out: str, tmp_path: Path
) -> None:
    script = SCRIPT.replace("WORK", CLEANS_UP.replace("AGAIN", again))
    ended = finish(start_python("-c", script, folder=tmp_path))
    assert ended == (130, out, "Aborted.\n")
