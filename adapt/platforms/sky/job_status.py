"""A record of `sky jobs queue` -> the status of a job."""

import re
from collections.abc import Mapping
from typing import Any

from adapt.errors import Interrupted
from adapt.platforms.exit_codes import SIGKILL, ended_with
from adapt.platforms.platform import JobStatus, State
from adapt.platforms.sky.script import OVER

STATES: dict[str, State] = {
    "PENDING": "waiting",
    "SUBMITTED": "waiting",
    "STARTING": "waiting",
    "RECOVERING": "waiting",
    "RUNNING": "running",
    "WINDING_DOWN": "running",
    "CANCELLING": "running",
    "SUCCEEDED": "done",
    "CANCELLED": "stopped",
    "FAILED": "failed",
    "FAILED_SETUP": "failed",
    "FAILED_PRECHECKS": "failed",
    "FAILED_NO_RESOURCE": "interrupted",
    "FAILED_CONTROLLER": "failed",
}
"""SkyPilot's words for managed jobs, and ours."""

_DETAILS = {
    "PENDING": "the jobs controller has not taken it yet",
    "STARTING": "machines are looked for and started",
    "RECOVERING": "reclaimed or saved; machines are looked for",
    "CANCELLING": "stopping",
    "FAILED_SETUP": "the image or setup of the profile failed. Fix: see its log",
    "FAILED_PRECHECKS": "SkyPilot refused it. Fix: `check --to` names why",
    "FAILED_NO_RESOURCE": "no machines to be had. Fix: name more accelerators, another infra or "
    "spot: false; submit it again to resume",
    "FAILED_CONTROLLER": "SkyPilot's jobs controller failed. Fix: see `sky jobs logs --controller`,"
    " and that `sky status` has no machine left, then submit it again to resume",
}
_OTHERS = (0, Interrupted.exit_code, SIGKILL)
"""Codes of nodes that ended because another failed."""


def status_of(record: Mapping[str, Any]) -> JobStatus:
    """The status of the job of a record, known by its name."""
    job, word = str(record.get("job_name")), str(record.get("status"))
    state, reason = STATES.get(word, "unknown"), str(record.get("failure_reason") or "")
    if word == "FAILED":
        return _failed(job, exit_code_in(reason), reason)
    if state == "done":
        return JobStatus(job, state, _again(record), 0)
    said = _DETAILS.get(word, "" if state != "unknown" else word)
    if state == "failed" and reason:
        said = f"{said} [{reason}]"
    parts = [said, "" if state in ("failed", "stopped") else _again(record)]
    return JobStatus(job, state, ", ".join(filter(None, parts)))


def exit_code_in(reason: str) -> int | None:
    """The exit code that SkyPilot names; of several nodes that of the one that failed first."""
    found = re.search(r"exit codes? \[?([\d, ]+)", reason)
    codes = [int(one) for one in re.findall(r"\d+", found[1])] if found else []
    return next((one for one in codes if one not in _OTHERS), next(filter(None, codes), None))


def _failed(job: str, code: int | None, reason: str) -> JobStatus:
    if code == OVER:
        detail = "max_hours of the profile are over, saved; submit it again to resume"
        return JobStatus(job, "interrupted", detail, Interrupted.exit_code)
    if code is None:
        return JobStatus(job, "failed", f"see the end of its log [{reason or 'no reason'}]")
    return ended_with(job, code, "memory_gb")


def _again(record: Mapping[str, Any]) -> str:
    times = int(record.get("recovery_count") or 0)
    return f"restart {times}" if times else ""
