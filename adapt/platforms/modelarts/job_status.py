"""ModelArts' description of a job -> its status, with the meaning of its nodes' exit codes."""

from collections.abc import Mapping
from typing import Any

from adapt.errors import Interrupted
from adapt.platforms.platform import JobStatus, State

PHASES: dict[str, State] = {
    "Creating": "waiting",
    "Pending": "waiting",
    "Running": "running",
    "Terminating": "running",
    "Completed": "done",
    "Terminated": "stopped",
    "Failed": "failed",
    "Abnormal": "failed",
}

MINUTE_MS = 60_000

EXIT_CODES = {
    1: "a bug in SegAdapt, see the log",
    2: "the job spec is wrong, see the log",
    3: "a store failed, see the log",
    4: "the data is not what it should be, see the log",
    75: "interrupted and saved; submit it again to resume",
    137: "out of memory. Fix: lower batch_size or stream.memory_gb, or take a larger flavor",
    247: "out of memory. Fix: lower batch_size or stream.memory_gb, or take a larger flavor",
    139: "a crash in a library. Fix: use an image with a CUDA that the driver supports",
    143: "stopped before it could save. Fix: lower grace_s of the profile below the node's",
}


def status_of(job: str, found: Mapping[str, Any], named: bool = False) -> JobStatus:
    """The API's description of a job -> status; with `named` the detail begins with its name."""
    status = found.get("status") or {}
    phase = str(status.get("phase") or "Unknown")
    state: State = PHASES.get(phase, "unknown")
    task, code, message = _first_failure(status.get("task_statuses") or [])
    if state == "failed" and code == Interrupted.exit_code:
        state = "interrupted"
    parts = [phase]
    if state in ("stopped", "interrupted") and _is_over(found, status):
        state = "stopped"  # only the user should extend a limit
        parts += ["max_hours is over. Fix: submit it again to resume"]
    if state in ("failed", "interrupted"):
        parts += [f"{task} ended with {code}"] if code else []
        parts += [EXIT_CODES.get(code or 0, message)]
    if phase == "Abnormal" and code is None:
        parts += ["ModelArts lost contact with it; its page shows the events"]
    starts = len(status.get("running_records") or [])
    parts += [f"started {starts} times"] if starts > 1 else []
    detail = ", ".join(part for part in parts if part)
    name = f"{found['metadata']['name']}: " if named else ""
    done = 0 if state == "done" else code
    return JobStatus(job, state, name + detail, done)


def _is_over(found: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Return whether the job ran as long as it may, to the minute; ModelArts has no phase for
    that."""
    stop = (found.get("spec") or {}).get("auto_stop") or {}
    minutes, ran_ms = 60 * int(stop.get("duration") or 0), int(status.get("duration") or 0)
    return minutes > 0 and ran_ms >= (minutes - 1) * MINUTE_MS


def _first_failure(tasks: list[Mapping[str, Any]]) -> tuple[str, int | None, str]:
    """The task with the most specific exit code: the others of a broken job end with 75."""
    failed = [task for task in tasks if task.get("exit_code")]
    failed.sort(key=lambda task: task["exit_code"] == Interrupted.exit_code)
    if not failed:
        return "", None, ""
    return failed[0].get("task", ""), failed[0]["exit_code"], failed[0].get("message") or ""
