"""Ctrl-C at a terminal: one line, and 130 before the job exists, 75 with everything saved after."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml

from adapt.launch.rank_status import RankStatus
from adapt.launch.stop import Stop
from adapt.launch.supervisor import _ended_or_stalled
from adapt.places import Place
from tests.chaos import descendants
from tests.commands import ROOT, environment_of
from tests.conftest import tiny_values
from tests.launch.rank_scripts import wait_until


def children(terminal: "Terminal") -> list[int]:
    return descendants(terminal.pid)


class Terminal:
    """A command with a terminal of its own, as a person sees it."""

    def __init__(self, *argv: object, folder: Path) -> None:
        self._screen, inside = self._open = pty.openpty()
        modes = termios.tcgetattr(inside)
        modes[3] |= termios.NOFLSH  # else Ctrl-C may discard the messages about it
        termios.tcsetattr(inside, termios.TCSANOW, modes)
        self.seen = ""
        self._process = subprocess.Popen(
            [sys.executable, *map(str, argv)],
            cwd=folder,
            env=environment_of(folder, None) | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_until(self, text: str) -> None:
        while text not in self.seen:
            assert self._read() or self._process.poll() is None, self.seen

    def press_ctrl_c(self) -> None:
        os.write(self._screen, b"\x03")

    def end(self) -> int:
        while self._read() or self._process.poll() is None:
            pass
        for end in self._open:  # until here, since the last words are lost with the last reader
            os.close(end)
        return self._process.wait()

    def _read(self) -> bool:
        """Read what comes within a moment; False for nothing."""
        if not select.select([self._screen], [], [], 0.2)[0]:
            return False
        self.seen += os.read(self._screen, 4096).decode(errors="replace")
        return True


def run(folder: Path, uri: str, *argv: object) -> Terminal:
    values = tiny_values(uri, "runs")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    command = (ROOT / "entrypoint.py", "run", "tiny.yaml", *argv)
    return Terminal(*command, folder=folder)


def lines_of(terminal: Terminal) -> list[str]:
    """The messages, without the live line and those of stored checkpoints."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\^C", "", terminal.seen.replace("\r", "\n"))
    kept = ("SIG", "ERROR", "Interrupted", "Traceback", "Aborted", "KeyboardInterrupt", "[")
    return [line for line in map(str.strip, text.split("\n")) if line.startswith(kept)]


SLOW = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(75)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], -signal.SIGKILL),
        ([signal.SIGINT], 75),
        ([signal.SIGINT, signal.SIGINT], 75),
        ([signal.SIGINT, signal.SIGTERM], -signal.SIGKILL),
    ],
)
def test_only_sigterm_begins_the_grace(
    signals: list[signal.Signals], code: int, tmp_path: Path, signals_kept: None
) -> None:
    """No SIGKILL of a platform follows Ctrl-C, so a job may take longer to save."""
    child = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    status = RankStatus(0, child.pid, time.time())
    (tmp_path / "rank-0.json").write_text(json.dumps(status))
    stop = Stop()
    stop.passes_to(child)
    for number in signals:
        os.kill(os.getpid(), number)
    assert _ended_or_stalled(child, tmp_path, stop, longest_s=0.1)
    assert child.returncode == code
    place = Place("docker", {"SEGADAPT_STATUS_DIR": str(tmp_path)}, tmp_path, grace_s=10)
    assert place.stop_s == (3600 if code == 75 else 10), "the ranks know it too"
    child.stdout.close()


def test_ctrl_c_again_after_the_grace_ends_what_hangs(signals_kept: None) -> None:
    stop = Stop(grace_s=0.05)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.by_hand and stop.age_s() == 0
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
    assert not stop.by_hand and stop.age_s() >= 0.05


def test_a_child_that_is_no_other_program_yet_says_nothing(
    signals_kept: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C reaches it too, before it has a session of its own."""
    stop = Stop()
    child = subprocess.Popen(
        [sys.executable, "-c", "pass"], preexec_fn=lambda: os.kill(os.getpid(), signal.SIGINT)
    )
    assert child.wait() == 0 and not stop.asked
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_while_a_job_starts_is_one_line_and_75(
    ranks: int, tiny_uri: str, tmp_path: Path
) -> None:
    terminal = run(tmp_path, tiny_uri, "--processes", ranks)
    wait_until(lambda: bool(children(terminal)), timeout_s=60)
    terminal.press_ctrl_c()
    assert terminal.end() == 75, terminal.seen
    line = "SIGINT: saving at the next step, then stopping (exit code 75)"
    assert lines_of(terminal) == [line], terminal.seen


def test_ctrl_c_before_there_is_a_job_is_one_line_and_130(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import adapt.__main__ as program
def slow(*_):
    print("loading", flush=True)
    time.sleep(60)
sys.meta_path.insert(0, type("Slow", (), dict(find_spec=slow)))
program.main()
"""
    terminal = Terminal("-c", code, folder=tmp_path)
    terminal.read_until("loading\r\n")
    terminal.press_ctrl_c()
    assert terminal.end() == 130, terminal.seen
    assert lines_of(terminal) == ["Aborted."]
