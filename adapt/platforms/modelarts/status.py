"""ModelArts' word for how a job is -> ours, with the exit codes of its nodes in words."""

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
    75: "interrupted and saved; submitted again, it goes on",
    137: "out of memory: a smaller batch_size or stream.memory_gb, or a larger flavor",
    247: "out of memory: a smaller batch_size or stream.memory_gb, or a larger flavor",
    139: "a crash in a library: is the image's CUDA one that the node's driver knows?",
    143: "stopped before it could save; grace_s of the profile is longer than the node's",
}


def status_of(job: str, found: Mapping[str, Any], named: bool = False) -> JobStatus:
    """A job as the API describes it -> status; with `named` the detail begins with its name."""
    status = found.get("status") or {}
    phase = str(status.get("phase") or "Unknown")
    state: State = PHASES.get(phase, "unknown")
    task, code, message = _first_failure(status.get("task_statuses") or [])
    if state == "failed" and code == Interrupted.exit_code:
        state = "interrupted"
    words = [phase]
    if state in ("stopped", "interrupted") and _is_over(found, status):
        state = "stopped"  # nobody but who set the limit should pass it
        words += ["max_hours is over; submit it again to go on"]
    if state in ("failed", "interrupted"):
        words += [f"{task} ended with {code}"] if code else []
        words += [EXIT_CODES.get(code or 0, message)]
    if phase == "Abnormal" and code is None:
        words += ["ModelArts lost sight of it; its page shows the events"]
    starts = len(status.get("running_records") or [])
    words += [f"started {starts} times"] if starts > 1 else []
    detail = ", ".join(word for word in words if word)
    name = f"{found['metadata']['name']}: " if named else ""
    done = 0 if state == "done" else code
    return JobStatus(job, state, name + detail, done)


def _is_over(found: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether the job ran as long as it may, to the minute: no phase of ModelArts' says so."""
    stop = (found.get("spec") or {}).get("auto_stop") or {}
    minutes, ran_ms = 60 * int(stop.get("duration") or 0), int(status.get("duration") or 0)
    return minutes > 0 and ran_ms >= (minutes - 1) * MINUTE_MS


def _first_failure(tasks: list[Mapping[str, Any]]) -> tuple[str, int | None, str]:
    """The task whose exit code says most: 75 is what the others of a broken job end with."""
    failed = [task for task in tasks if task.get("exit_code")]
    failed.sort(key=lambda task: task["exit_code"] == Interrupted.exit_code)
    if not failed:
        return "", None, ""
    return failed[0].get("task", ""), failed[0]["exit_code"], failed[0].get("message") or ""
