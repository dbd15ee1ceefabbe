"""The supervisor, PID 1 of a job's container: starts the process of the ranks, passes a stop
on, watches the ranks, and decides the exit code.

Its child runs the same command again: it reads the job, counts the GPUs, and is the job's only rank
or starts several (`adapt.launch.elastic`). So the supervisor imports no torch, unless a job fails:
MLflow hears of that from here, whichever rank it was.
"""

import importlib
import logging
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import TYPE_CHECKING

from adapt.checkpoint.lease import LeaseLost, RunInUse
from adapt.checkpoint.processes import is_alive
from adapt.errors import DataError, Interrupted, JobError
from adapt.launch.first_node import wait_for_first_node
from adapt.launch.job_copy import read_job
from adapt.launch.rank_status import (
    RankStatus,
    die_with_parent,
    read_first_failure,
    read_stacks,
    read_statuses,
    status_folder,
)
from adapt.launch.stop import Stop, shutdown_s
from adapt.launch.verdict import RESUME, Verdict, verdict_of, write_failure
from adapt.launch.watch import Watch
from adapt.places import (
    BY_HAND_FILE,
    PLATFORM_VARIABLE,
    SHARE_CORES_VARIABLE,
    STATUS_VARIABLE,
    Place,
)
from storage.errors import StoreError

if TYPE_CHECKING:
    from adapt.tracking.tracker import Status

log = logging.getLogger(__name__)

POLL_S = 0.5
STACKS_S, STOP_S = 3.0, 5.0
"""Time in which stalled ranks may write their stacks, and then end by themselves."""
REFUSALS = (JobError.exit_code, StoreError.exit_code, DataError.exit_code)
BACKGROUND = "may outlast the grace"
KILL_S = 1.0
"""Time after its ranks in which the supervisor's child may end after a stop."""

_ROOT = Path(__file__).resolve().parents[2]


def launch(place: Place, command: Sequence[str]) -> int:
    """Run a job's `command` (arguments of Python) in the ranks of this node; the exit code.

    A failure stands in MLflow too, whichever rank it was and however it ended.
    """
    stop = Stop(place.grace_s)
    with status_folder() as folder:
        verdict = supervise(
            command, place, folder, lambda text: keep_stacks(folder, place, text), stop
        )
        if verdict.kind:
            telling = _in_background(lambda: end_run(folder, place, verdict))
            telling.join(stop.left_s(place.grace_s))
    return verdict.exit_code


def _in_background(act: Callable[[], object]) -> Thread:
    """Start what may outlast the grace (see `still_busy`)."""
    thread = Thread(target=act, name=BACKGROUND, daemon=True)
    thread.start()
    return thread


def still_busy() -> bool:
    """True where a thread of `launch` still imports or waits for MLflow.

    Python's own end then waits for it, or spoils the exit code: end with `os._exit`.
    """
    return any(thread.name == BACKGROUND for thread in enumerate_threads())


def end_run(folder: Path, place: Place, verdict: Verdict) -> None:
    """End the job's MLflow run with the verdict, if store and server are reachable, and unless
    another job trains the run, or this start was refused before it continued the run: what the
    earlier ones made of it stays."""
    job, statuses = read_job(folder), read_statuses(folder)
    others = {RunInUse.__name__, LeaseLost.__name__}
    if job is None or any(status.kind in others for status in statuses):
        return
    begun = any(status.begun for status in statuses)
    if verdict.exit_code in REFUSALS and not begun:
        return
    from adapt.trainer.tracked_run import end_tracked_run

    interrupted = verdict.exit_code == Interrupted.exit_code
    status: Status = "KILLED" if interrupted else "FAILED"
    why = f"{verdict.kind}: {verdict.message}"
    try:
        end_tracked_run(job, place, status, why, begun=begun)
    except (StoreError, JobError, OSError) as error:
        log.warning("the end of the job is not reported to MLflow: %s", error)


def keep_stacks(folder: Path, place: Place, text: str) -> None:
    """Put the stacks of a stalled node beside the job's checkpoints, if the store is reachable."""
    from adapt.trainer.opening import open_run_folder

    job = read_job(folder)
    if job is None:
        return
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
    folder: Path,
    keep: Callable[[str], None],
    stop: Stop | None = None,
) -> Verdict:
    """Run Python with the arguments `command` until all ranks have ended; the verdict.

    `folder` is the `status_folder`. `keep` gets the stacks of stalled ranks. A failure also goes to
    the place's failure file. Raises `JobError` where the first node has no name.
    """
    stop = stop or Stop(place.grace_s)
    try:
        if place.num_nodes > 1:
            wait_for_first_node(place, stop)
    except Interrupted as error:
        log.error("Interrupted: %s", error)
        return Verdict(Interrupted.exit_code, "Interrupted", str(error), shown=True)
    if stop.asked:
        return Verdict(Interrupted.exit_code)
    child = subprocess.Popen(
        [sys.executable, "-u", *command],
        env=_environment(place, folder),
        start_new_session=True,  # Ctrl-C in the terminal reaches this process alone
        preexec_fn=die_with_parent,
    )
    stop.passes_to(child)
    if _ended_or_stalled(child, folder, stop, shutdown_s(place.grace_s)):
        statuses, first = read_statuses(folder), read_first_failure(folder)
        late = stop.age_s() > shutdown_s(place.grace_s)
        verdict = verdict_of(child.returncode, statuses, first, stop.asked, late)
    else:
        verdict = _end_stalled(child, folder, keep)
    if verdict.kind and not verdict.shown:
        log.error("%s: %s", verdict.kind, verdict.message)
    if verdict.exit_code not in (0, Interrupted.exit_code):
        write_failure(place.failure_file, verdict.kind, verdict.message, verdict.traceback_text)
    return verdict


def _environment(place: Place, folder: Path) -> dict[str, str]:
    """The place's environment, and what the child and its ranks need beside it."""
    kept = place.environment
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), SHARE_CORES_VARIABLE: "1"}
    ours = [] if str(_ROOT) == sysconfig.get_path("purelib") else [str(_ROOT)]
    paths = [*ours, *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **({} if "OMP_NUM_THREADS" in kept else threads),
        **kept,
        **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {}),
        STATUS_VARIABLE: str(folder),
        PLATFORM_VARIABLE: place.platform,  # without PET_ a rank takes it for another
    }


def _ended_or_stalled(
    child: "subprocess.Popen[bytes]", folder: Path, stop: Stop, longest_s: float
) -> bool:
    """Wait: True where the child ended, if need be by force `longest_s` after a stop; False where
    a rank stalled."""
    watch, told = Watch(folder), set[int]()
    while True:
        try:
            child.wait(POLL_S)
            return True
        except subprocess.TimeoutExpired:
            if stop.by_hand:
                told |= _tell_ranks(folder, told)
            if stop.asked and not stop.by_hand:
                (folder / BY_HAND_FILE).unlink(missing_ok=True)
                _hasten(child, folder, stop.age_s(), longest_s)
            elif watch.stalled():
                return False


def _tell_ranks(folder: Path, told: set[int]) -> set[int]:
    """Pass Ctrl-C on to the ranks that have not got it yet, as SIGTERM; their processes.

    Torch's launcher, which would kill them after the grace, does not hear of it.
    """
    with suppress(OSError):  # on a full disk they take the grace
        (folder / BY_HAND_FILE).touch()
    running = [one for one in read_statuses(folder) if one.exit_code is None]
    new = [status for status in running if status.pid not in told]
    _signal_ranks(new, signal.SIGTERM)
    return {status.pid for status in new}


def _hasten(child: "subprocess.Popen[bytes]", folder: Path, age_s: float, longest_s: float) -> None:
    """Kill ranks that take too long after a stop of that age; be ready to report to MLflow within
    the rest of the grace."""
    if age_s > longest_s / 2:
        _prepare_end_run()
    if age_s > longest_s:
        _signal_ranks(read_statuses(folder), signal.SIGKILL)
    if age_s > longest_s + KILL_S:
        child.kill()


@cache
def _prepare_end_run() -> None:
    """Import what `end_run` needs meanwhile: torch takes seconds that a grace may not have."""
    names = ("adapt.trainer.tracked_run", "adapt.trainer.opening", "mlflow")
    _in_background(lambda: [importlib.import_module(name) for name in names])


def _end_stalled(
    child: "subprocess.Popen[bytes]", folder: Path, keep: Callable[[str], None]
) -> Verdict:
    statuses = read_statuses(folder)
    _signal_ranks(statuses, signal.SIGUSR1)
    time.sleep(STACKS_S)
    stacks = read_stacks(folder)
    log.error("stalled: no heartbeat of a rank for train.stall_minutes; all stacks:\n%s", stacks)
    keep(stacks)
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_S)
    _signal_ranks(statuses, signal.SIGKILL)
    child.kill()
    child.wait()
    problem = "a rank made no progress for longer than train.stall_minutes"
    return Verdict(Interrupted.exit_code, "Stalled", f"{problem}. Fix: {RESUME}.")


def _signal_ranks(statuses: Sequence[RankStatus], number: signal.Signals) -> None:
    for status in statuses:
        if is_alive(status.pid):
            with suppress(ProcessLookupError):
                os.kill(status.pid, number)
