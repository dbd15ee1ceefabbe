"""What the ranks of a node tell the process that started them: files in a folder that both know.

A rank writes `rank-N.json` (`RankStatus`) when it starts and when it ends, and touches
`rank-N.beat` whenever it achieved something. SIGUSR1 makes it write the stacks of all its threads
to `rank-N.stacks`, also while one of them holds Python's lock. torchrun passes none of this on,
so the node's exit code is decided from these files (`verdict_of`).
"""

import ctypes
import faulthandler
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from adapt.errors import Interrupted

SUPERVISOR_FILE = "supervisor.json"
STATUS_PREFIX = "segadapt-status-"
"""How the folders are named, in the system's temporary folder."""
BEAT_EVERY_S = 1.0
FAILURE_BYTES = 4000
"""What Kubernetes keeps of a termination message, nearly."""

OURS = (2, 3, 4, Interrupted.exit_code)
"""Exit codes that only a rank of ours ends with."""

GOES_ON = "the same command goes on from the last durable checkpoint"
_KILLED = (
    "; usually the machine or the container had no memory left: lower stream.memory_gb, "
    "stream.decoded_mb, stream.threads or batch_size, or ask the platform for more"
)
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Supervisor(NamedTuple):
    """The process that started the ranks, and how long it lets them be silent."""

    pid: int
    stall_s: float


class RankStatus(NamedTuple):
    """A rank's process, and, once `exit_code` is not None, how it ended.

    `time_s` is when it started or ended (`time.time()`); `kind` names the failure, or is empty.
    """

    rank: int
    pid: int
    time_s: float
    exit_code: int | None = None
    kind: str = ""
    message: str = ""
    traceback_text: str = ""


class Verdict(NamedTuple):
    """What a node's processes come to; `kind` is empty where the job is done."""

    exit_code: int
    kind: str = ""
    message: str = ""
    traceback_text: str = ""


class WorkerStatus:
    """A rank's side. Without a folder nobody listens, and nothing is written."""

    def __init__(self, folder: Path | None, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._beaten_s = -BEAT_EVERY_S
        self._stacks: IO[str] | None = None
        if folder is not None:
            die_with_parent()
            self._stacks = (folder / f"rank-{rank}.stacks").open("w")
            faulthandler.register(signal.SIGUSR1, self._stacks, all_threads=True)
            self._write(RankStatus(rank, os.getpid(), time.time()))

    def beat(self) -> None:
        """Say that something was achieved; cheap."""
        now_s = time.monotonic()
        if self._folder is None or now_s - self._beaten_s < BEAT_EVERY_S:
            return
        self._beaten_s = now_s
        with suppress(OSError):  # a full disk is for those who need it to say
            (self._folder / f"rank-{self._rank}.beat").touch()

    def ended(
        self, exit_code: int, kind: str = "", message: str = "", traceback_text: str = ""
    ) -> None:
        """Say how this rank ends."""
        if self._folder is None:
            return
        facts = (exit_code, kind, message, traceback_text)
        with suppress(OSError):  # the folder goes with a supervisor that was killed
            self._write(RankStatus(self._rank, os.getpid(), time.time(), *facts))

    def _write(self, status: RankStatus) -> None:
        assert self._folder is not None
        path = self._folder / f"rank-{self._rank}.json"
        path.with_suffix(".new").write_text(json.dumps(status))
        path.with_suffix(".new").replace(path)


def write_supervisor(folder: Path, stall_s: float) -> None:
    """Say that this process starts the ranks which write to `folder`."""
    (folder / SUPERVISOR_FILE).write_text(json.dumps(Supervisor(os.getpid(), stall_s)))


def clear_leftovers(temporary: Path) -> None:
    """Delete the folders of jobs whose first process is gone: killed, or an earlier life of this
    very process, as a container that is started again has the same number."""
    for folder in temporary.glob(f"{STATUS_PREFIX}*"):
        found = read_supervisor(folder)
        if found is not None and (found.pid == os.getpid() or not is_alive(found.pid)):
            shutil.rmtree(folder, ignore_errors=True)


def read_supervisor(folder: Path) -> Supervisor | None:
    """Who started the ranks that write to `folder`; None where it has not said so yet."""
    try:
        return Supervisor(*json.loads((folder / SUPERVISOR_FILE).read_text()))
    except (OSError, ValueError):
        return None


def last_sign_s(folder: Path, status: RankStatus) -> float:
    """When (`time.time()`) a rank gave its last sign of life: a start, a beat or an ending."""
    return max(status.time_s, _beat_s(folder, status.rank))


def _beat_s(folder: Path, rank: int) -> float:
    try:
        return (folder / f"rank-{rank}.beat").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def read_statuses(folder: Path) -> list[RankStatus]:
    """What the ranks of a node said last, the earliest first."""
    found = [RankStatus(*json.loads(path.read_text())) for path in folder.glob("rank-*.json")]
    return sorted(found, key=lambda status: status.time_s)


def read_stacks(folder: Path) -> str:
    """The stacks of all ranks that wrote them."""
    paths = sorted(folder.glob("rank-*.stacks"), key=lambda path: int(path.stem[len("rank-") :]))
    return "\n".join(f"{path.stem}:\n{path.read_text(errors='replace')}" for path in paths)


def verdict_of(
    torchrun_code: int,
    statuses: Sequence[RankStatus],
    first: tuple[int, int] | None,
    processes: int,
    asked: bool,
) -> Verdict:
    """What statuses, earliest first, and torchrun's `first` failure (rank, exit code) come to.

    The first failure that is no interruption; 75 where all that ended were interrupted or a stop
    was asked for; 128 + signal where a rank died without a word.
    """
    interrupted = Interrupted.exit_code
    if torchrun_code == 0:
        return Verdict(0)
    ended = [status for status in statuses if status.exit_code is not None]
    for status in ended:
        if status.exit_code not in (0, interrupted):
            message = f"rank {status.rank}: {status.message}"
            return Verdict(
                status.exit_code or 1, status.kind or "Failed", message, status.traceback_text
            )
    if len(ended) == processes:
        return Verdict(max(status.exit_code or 0 for status in ended))
    if asked:
        return Verdict(interrupted, "Interrupted", f"not every rank ended in time; {GOES_ON}")
    rank, code = (None, torchrun_code) if first is None else first
    who = "torchrun" if rank is None else f"rank {rank}"
    if code < 0 and rank not in {status.rank for status in ended}:
        name = signal.Signals(-code).name
        why = _KILLED if -code == signal.SIGKILL else ""
        return Verdict(128 - code, "Killed", f"{who} died of {name}{why}; {GOES_ON}")
    if any(status.exit_code == interrupted for status in ended):
        return Verdict(interrupted, "Interrupted", GOES_ON)
    said = f"{who} ended with exit code {code} without saying why"
    if code in OURS:
        return Verdict(code, "Failed", f"{said}, as on a full disk; the log above may")
    return Verdict(1, "Bug", said)


class Watch:
    """Knows which ranks have not given a sign of life for `stall_s` seconds.

    A sign is a start, a beat or an ending; its age is taken from this process's own clock, which
    nobody sets.
    """

    def __init__(self, folder: Path, stall_s: float) -> None:
        self._folder, self._stall_s = folder, stall_s
        self._signs: dict[int, tuple[tuple[float, float], float]] = {}

    def stalled(self) -> list[RankStatus]:
        """The living ranks without a sign of life for too long."""
        now_s, found = time.monotonic(), []
        for status in read_statuses(self._folder):
            sign = (status.time_s, _beat_s(self._folder, status.rank))
            seen = self._signs.get(status.rank)
            if seen is None or seen[0] != sign:
                self._signs[status.rank] = (sign, now_s)
            elif now_s - seen[1] > self._stall_s and is_alive(status.pid):
                found.append(status)
        return found


def is_alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def die_with_parent() -> None:
    """Have Linux send this process SIGTERM when the thread that started it ends, however."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def write_failure(path: Path | None, kind: str, message: str, traceback_text: str = "") -> None:
    """Put a failure where the platform shows it, if it does; its last bytes matter most."""
    if path is None:
        return
    head = f"{kind}: {message}\n".encode()[:FAILURE_BYTES]
    room = FAILURE_BYTES - len(head)
    tail = traceback_text.encode()[-room:] if room else b""
    with suppress(OSError):
        path.write_bytes(head + tail)
