"""The first process of a job on a node: starts torchrun, passes a stop on, watches the ranks, and
decides the exit code.

torchrun turns every failure into 1, so ranks write how they ended (`adapt.launch.status`), and
the first that failed decides. torchrun restarts nothing: the platform runs the same command again,
and the job goes on from its checkpoint.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING

from torch.distributed.run import get_args_parser

from adapt.errors import Interrupted, JobError
from adapt.launch.status import (
    GOES_ON,
    STATUS_PREFIX,
    RankStatus,
    Verdict,
    Watch,
    clear_leftovers,
    die_with_parent,
    is_alive,
    read_stacks,
    read_statuses,
    verdict_of,
    write_failure,
    write_supervisor,
)
from adapt.places import PLATFORM_VARIABLE, STATUS_VARIABLE, Place
from adapt.spec.job_spec import JobSpec
from storage.errors import StoreError

if TYPE_CHECKING:
    from adapt.tracking.tracker import Status

log = logging.getLogger(__name__)

POLL_S = 0.5
NAME_PATIENCE_S = 120.0
STACKS_S, STOP_S = 3.0, 5.0
"""How long stalled ranks may write their stacks, and then end by themselves."""

END_S = 1.0
"""What the end of this process itself may take."""

_ROOT = Path(__file__).resolve().parents[2]


def launch(job: JobSpec, place: Place, processes: int, command: Sequence[str]) -> int:
    """Run a job's `command` (a script and its arguments) in `processes` ranks on this node; the
    exit code.

    A failure stands in MLflow too, whichever rank it was and however it ended.
    """
    stall_s, stop = 60 * job.train.stall_minutes, Stop()
    verdict = supervise(
        command, place, processes, stall_s, lambda text: keep_stacks(job, place, text), stop
    )
    if verdict.kind:
        telling = Thread(target=end_run, args=(job, place, verdict), daemon=True)
        telling.start()
        telling.join(stop.left_s(place.grace_s))
    return verdict.exit_code


def end_run(job: JobSpec, place: Place, verdict: Verdict) -> None:
    """End the job's MLflow run with the verdict, if store and server are reachable."""
    from adapt.trainer.tracked_run import end_tracked_run

    interrupted = verdict.exit_code == Interrupted.exit_code
    status: Status = "KILLED" if interrupted else "FAILED"
    try:
        end_tracked_run(job, place, status, f"{verdict.kind}: {verdict.message}")
    except (StoreError, JobError, OSError) as error:
        log.warning("the end of the job is not reported to MLflow: %s", error)


def keep_stacks(job: JobSpec, place: Place, text: str) -> None:
    """Put the stacks of a stalled node beside the job's checkpoints, if the store is reachable."""
    from adapt.trainer.opening import open_run_folder

    key = f"stalls/node-{place.node}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.txt"
    try:
        store = open_run_folder(job, place).store
        store.put(key, text.encode())
    except (StoreError, JobError, OSError) as error:
        log.warning("the stacks could not be stored: %s", error)
    else:
        log.info("the stacks are at %s/%s", store.uri, key)


def supervise(
    command: Sequence[str],
    place: Place,
    processes: int,
    stall_s: float,
    keep: Callable[[str], None],
    stop: "Stop | None" = None,
) -> Verdict:
    """Run `command` in `processes` ranks until all have ended, or `stop` is asked for; what they
    come to.

    `keep` gets the stacks of ranks that gave no sign of life for `stall_s`. A failure also goes
    to the place's failure file. Raises `JobError` where the first node's name stays unknown.
    """
    stop = stop or Stop()
    clear_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=STATUS_PREFIX) as name:
        folder = Path(name)
        write_supervisor(folder, stall_s)
        if place.num_nodes > 1:
            _wait_for_name(place, stop)
        if stop.asked:
            return Verdict(Interrupted.exit_code)
        torchrun = subprocess.Popen(
            torchrun_command(place, processes, command),
            env=_environment(place, processes, folder),
            start_new_session=True,  # Ctrl-C in the terminal reaches this process alone
            preexec_fn=die_with_parent,
        )
        stop.passes_to(torchrun)
        if _ended_or_stalled(torchrun, Watch(folder, stall_s), stop):
            verdict = _judge(torchrun.returncode, folder, processes, stop.asked)
        else:
            verdict = _end_stalled(torchrun, folder, stall_s, keep)
    if verdict.kind:
        log.error("%s: %s", verdict.kind, verdict.message)
    if verdict.exit_code not in (0, Interrupted.exit_code):
        write_failure(place.failure_file, verdict.kind, verdict.message, verdict.traceback_text)
    return verdict


def torchrun_command(place: Place, processes: int, command: Sequence[str]) -> list[str]:
    """torchrun for this node, whose ranks may take nearly all of the place's grace to end."""
    nodes = ["--standalone"]
    if place.num_nodes > 1:
        nodes = [
            *("--nnodes", str(place.num_nodes), "--node-rank", str(place.node)),
            *("--master-addr", str(place.master_addr), "--master-port", str(place.master_port)),
        ]
    shutdown = ["--shutdown-timeout", str(max(5, int(place.grace_s - 4)))]
    if shutdown[0] not in get_args_parser().format_help():  # newer than the oldest torch we run on
        shutdown = []
    return [
        *(sys.executable, "-m", "adapt.launch.torchrun", *nodes),
        *("--nproc-per-node", str(processes), "--max-restarts", "0", *shutdown),
        *command,
    ]


def _environment(place: Place, processes: int, folder: Path) -> dict[str, str]:
    """The place's environment, without what torchrun would take for its own options."""
    kept = {k: v for k, v in place.environment.items() if not k.startswith("PET_")}
    cores = len(os.sched_getaffinity(0))
    paths = [str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        STATUS_VARIABLE: str(folder),
        PLATFORM_VARIABLE: place.platform,  # without PET_ a rank takes it for another
    }


class Stop:
    """From now on the first SIGTERM or SIGINT is passed on as one SIGTERM, whenever the process to
    pass it to is there; later ones change nothing."""

    def __init__(self) -> None:
        self.asked, self._asked_s = False, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def passes_to(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        if self.asked:
            process.terminate()

    def left_s(self, grace_s: float) -> float | None:
        """How much of the platform's grace is left, less what ending takes; None where nobody
        asked for a stop."""
        end_s = self._asked_s + grace_s - END_S
        return max(0.0, end_s - time.monotonic()) if self.asked else None

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked:
            _say(f"{name}: already stopping")
            return
        self.asked, self._asked_s = True, time.monotonic()
        _say(f"{name}: saving at the next step, then stopping (exit code 75)")
        if self._process is not None:
            self._process.terminate()


def _say(line: str) -> None:
    """Write to stderr past Python's buffers, which a signal may have interrupted."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _wait_for_name(place: Place, stop: Stop) -> None:
    """Return once the first node's name is known: it may get its name after this node started."""
    if place.master_addr is None:
        raise JobError("PET_MASTER_ADDR: expected the first node's name, got nothing")
    deadline_s = time.monotonic() + NAME_PATIENCE_S
    while not stop.asked:
        try:
            socket.getaddrinfo(place.master_addr, place.master_port)
            return
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise JobError(
                    f"PET_MASTER_ADDR: expected the first node's name, got "
                    f"{place.master_addr!r}, unknown for {NAME_PATIENCE_S:g} s: {error}"
                ) from error
        time.sleep(POLL_S)


def _ended_or_stalled(torchrun: "subprocess.Popen[bytes]", watch: Watch, stop: Stop) -> bool:
    """Wait: True where torchrun ended, False where a rank stalled."""
    while True:
        try:
            torchrun.wait(POLL_S)
            return True
        except subprocess.TimeoutExpired:
            if not stop.asked and watch.stalled():  # torchrun itself kills who does not stop
                return False


def _end_stalled(
    torchrun: "subprocess.Popen[bytes]", folder: Path, stall_s: float, keep: Callable[[str], None]
) -> Verdict:
    statuses = read_statuses(folder)
    _signal_ranks(statuses, signal.SIGUSR1)
    time.sleep(STACKS_S)
    stacks = read_stacks(folder)
    log.error("a rank gave no sign of life for %g s; the ranks' stacks:\n%s", stall_s, stacks)
    keep(stacks)
    torchrun.terminate()
    with suppress(subprocess.TimeoutExpired):
        torchrun.wait(STOP_S)
    _signal_ranks(statuses, signal.SIGKILL)
    torchrun.kill()
    torchrun.wait()
    return Verdict(Interrupted.exit_code, "Stalled", f"ended; {GOES_ON}")


def _signal_ranks(statuses: Sequence[RankStatus], number: signal.Signals) -> None:
    for status in statuses:
        if is_alive(status.pid):
            with suppress(ProcessLookupError):
                os.kill(status.pid, number)


def _judge(torchrun_code: int, folder: Path, processes: int, asked: bool) -> Verdict:
    return verdict_of(torchrun_code, read_statuses(folder), _failure(folder), processes, asked)


def _failure(folder: Path) -> tuple[int, int] | None:
    """The rank that failed first, and its exit code, as `adapt.launch.torchrun` wrote; None where
    it could not."""
    try:
        rank, code = json.loads((folder / "failure.json").read_text())
    except (OSError, ValueError):  # an empty file is what a full disk leaves
        return None
    return rank, code
