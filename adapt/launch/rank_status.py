"""How the ranks of a node report to the supervisor: files in a folder that both know.

A rank writes `rank-N.json` (`RankStatus`) when it starts and when it ends, and touches
`rank-N.beat`, its heartbeat, whenever it makes progress. SIGUSR1 makes it write the stacks of all
its threads to `rank-N.stacks`, also while one of them holds Python's lock. An exit code alone
cannot say all that, so the node's is decided from these files (`adapt.launch.verdict`).
"""

import ctypes
import faulthandler
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from adapt.checkpoint.processes import is_alive
from adapt.errors import Interrupted

SUPERVISOR_FILE, FAILURE_FILE = "supervisor.json", "failure.json"
STATUS_PREFIX = "segadapt-status-"
"""Prefix of the folders' names, in the system's temporary folder."""
BEAT_EVERY_S = 1.0
START_STALL_S = 1200.0
"""The watchdog timeout of a rank that has not read its job yet: the default of
`train.stall_minutes`."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class RankStatus(NamedTuple):
    """A rank's process, and, once `exit_code` is not None, how it ended.

    `time_s` is when it started or ended (`time.time()`); `kind` names the failure, or is empty. It
    has stalled after `stall_s` without a heartbeat; `local_ranks` run on its node. `begun` is True
    once its job has passed every check, and continues the run.
    """

    rank: int
    pid: int
    time_s: float
    exit_code: int | None = None
    kind: str = ""
    message: str = ""
    traceback_text: str = ""
    stall_s: float = START_STALL_S
    local_ranks: int = 1
    begun: bool = False


class WorkerStatus:
    """A rank's side. Without a folder there is no supervisor, and nothing is written."""

    def __init__(self, folder: Path | None, rank: int, local_ranks: int = 1) -> None:
        self._folder, self._rank, self._local_ranks = folder, rank, local_ranks
        self._stall_s, self._begun = START_STALL_S, False
        self._beaten_s = -BEAT_EVERY_S
        self._stacks: IO[str] | None = None
        if folder is not None:
            die_with_parent()
            self._stacks = (folder / f"rank-{rank}.stacks").open("w")
            faulthandler.register(signal.SIGUSR1, self._stacks, all_threads=True)
            self._write()

    def expect_beats(self, stall_s: float) -> None:
        """From now on this rank has stalled after `stall_s` seconds without a heartbeat."""
        self._stall_s = stall_s
        if self._folder is not None:
            self._write()

    def begin(self) -> None:
        """From now on this rank's job continues the run: nothing refuses it any more."""
        self._begun = True
        if self._folder is not None:
            self._write()

    def beat(self) -> None:
        """Report progress; cheap."""
        now_s = time.monotonic()
        if self._folder is None or now_s - self._beaten_s < BEAT_EVERY_S:
            return
        self._beaten_s = now_s
        with suppress(OSError):  # a full disk is for those who need it to report
            (self._folder / f"rank-{self._rank}.beat").touch()

    def ended(
        self, exit_code: int, kind: str = "", message: str = "", traceback_text: str = ""
    ) -> None:
        """Report how this rank ends."""
        if self._folder is None:
            return
        with suppress(OSError):  # the folder goes with a supervisor that was killed
            self._write(exit_code, kind, message, traceback_text)

    def end_on_sigterm(self) -> None:
        """Until a command handles SIGTERM itself, report an interruption and end with 75."""

        def end(*_: object) -> None:
            self.ended(Interrupted.exit_code)
            os._exit(Interrupted.exit_code)

        signal.signal(signal.SIGTERM, end)

    def withdraw(self) -> None:
        """This process is no rank: it starts them as processes of their own."""
        if self._folder is not None:
            (self._folder / f"rank-{self._rank}.json").unlink()
        self._folder = None

    def _write(
        self,
        exit_code: int | None = None,
        kind: str = "",
        message: str = "",
        traceback_text: str = "",
    ) -> None:
        assert self._folder is not None
        status = RankStatus(
            self._rank,
            os.getpid(),
            time.time(),
            *(exit_code, kind, message, traceback_text),
            *(self._stall_s, self._local_ranks, self._begun),
        )
        path = self._folder / f"rank-{self._rank}.json"
        path.with_suffix(".new").write_text(json.dumps(status))
        path.with_suffix(".new").replace(path)


@contextmanager
def status_folder() -> Iterator[Path]:
    """The folder of a job that this process supervises; it goes with the job."""
    clear_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=STATUS_PREFIX) as name:
        write_supervisor(Path(name))
        yield Path(name)


def write_supervisor(folder: Path) -> None:
    """Note that this process supervises the ranks that write to `folder`."""
    (folder / SUPERVISOR_FILE).write_text(json.dumps([os.getpid(), START_STALL_S]))


def clear_leftovers(temporary: Path) -> None:
    """Delete the folders of jobs whose supervisor is gone: killed, or an earlier life of this
    very process, as a container that is started again has the same number."""
    for folder in temporary.glob(f"{STATUS_PREFIX}*"):
        pid = read_supervisor(folder)
        if pid is not None and (pid == os.getpid() or not is_alive(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def read_supervisor(folder: Path) -> int | None:
    """The process that supervises the ranks of `folder`; None where it has not written it yet, or
    another version of SegAdapt wrote it in another form."""
    try:
        pid = json.loads((folder / SUPERVISOR_FILE).read_text())[0]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return pid if isinstance(pid, int) else None


def last_sign_s(folder: Path, status: RankStatus) -> float:
    """When (`time.time()`) a rank last made progress: a start, a heartbeat or an ending."""
    return max(status.time_s, beat_s(folder, status.rank))


def beat_s(folder: Path, rank: int) -> float:
    """When (by the file system's clock) a rank's last heartbeat was, or 0."""
    try:
        return (folder / f"rank-{rank}.beat").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def read_statuses(folder: Path) -> list[RankStatus]:
    """The newest status of each rank of a node, the earliest first."""
    found = [_status_in(path) for path in folder.glob("rank-*.json")]
    return sorted(filter(None, found), key=lambda status: status.time_s)


def _status_in(path: Path) -> RankStatus | None:
    """The status in a file; None where another version of SegAdapt wrote one that we cannot
    read. Fields that are newer than ours come last."""
    try:
        values = json.loads(path.read_text())
        status = RankStatus(*values[: len(RankStatus._fields)])
    except (ValueError, TypeError, LookupError):
        return None
    ours = isinstance(status.pid, int) and isinstance(status.time_s, int | float)
    return status if ours else None


def read_stacks(folder: Path) -> str:
    """The stacks of all ranks that wrote them."""
    paths = sorted(folder.glob("rank-*.stacks"), key=lambda path: int(path.stem[len("rank-") :]))
    return "\n".join(f"{path.stem}:\n{path.read_text(errors='replace')}" for path in paths)


def write_first_failure(folder: Path, rank: int, code: int) -> None:
    """Note the rank that failed first, and its exit code, where a signal is negative."""
    with suppress(OSError):
        (folder / FAILURE_FILE).write_text(json.dumps([rank, code]))


def read_first_failure(folder: Path) -> tuple[int, int] | None:
    """The note of `write_first_failure`; None where there is none."""
    try:
        rank, code = json.loads((folder / FAILURE_FILE).read_text())
    except (OSError, ValueError):  # an empty file is what a full disk leaves
        return None
    return rank, code


def die_with_parent() -> None:
    """Have Linux send this process SIGTERM when the thread that started it ends, however."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
