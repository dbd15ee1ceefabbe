"""The description of a batch job by Slurm -> its status: from `scontrol show job`; after the
controller has forgotten it (MinJobAge, 5 minutes) from `sacct`, and without accounting from the
file that its script left."""

import re
from collections.abc import Mapping

from adapt.errors import Interrupted
from adapt.platforms.exit_codes import MEMORY_FIX, SIGKILL, ended_with
from adapt.platforms.platform import JobStatus, State

_MEMORY = f"out of memory. Fix: {MEMORY_FIX}"

STATES: dict[str, State] = {
    "PENDING": "waiting",
    "CONFIGURING": "waiting",
    "REQUEUED": "waiting",
    "REQUEUE_FED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "RESV_DEL_HOLD": "waiting",
    "SPECIAL_EXIT": "waiting",
    "RUNNING": "running",
    "COMPLETING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "STOPPED": "running",
    "SUSPENDED": "running",
    "COMPLETED": "done",
    "CANCELLED": "stopped",
    "BOOT_FAIL": "interrupted",
    "NODE_FAIL": "interrupted",
    "PREEMPTED": "interrupted",
    "TIMEOUT": "interrupted",
    "DEADLINE": "failed",
    "FAILED": "failed",
    "OUT_OF_MEMORY": "failed",
    "REVOKED": "failed",
}
"""Slurm's words for states, and ours."""

_RECLAIMED = {
    "BOOT_FAIL": "a node did not boot. Fix: submit it again to resume",
    "NODE_FAIL": "a node failed. Fix: submit it again to resume",
    "PREEMPTED": "preempted. Fix: submit it again to resume",
    "TIMEOUT": "not saved within grace_s before the time limit. Fix: submit it again to resume "
    "from the last checkpoint; raise grace_s or max_hours of the profile",
}
_REASONS = {
    "AssocGrp": "a limit of the account. Fix: wait, or another account or qos",
    "BadConstraints": "no node fits. Fix: `check --to` names what the cluster lacks",
    "BeginTime": "queued again, begins soon",
    "JobHeld": "held. Fix: scontrol release JOB, or ask the administrators",
    "PartitionDown": "the partition is down. Fix: wait, or another partition",
    "PartitionNodeLimit": "more nodes than the partition gives. Fix: lower nodes of the profile",
    "PartitionTimeLimit": "longer than the partition allows. Fix: lower max_hours of the profile",
    "QOS": "a limit of the quality of service. Fix: wait, or another qos",
    "ReqNodeNotAvail": "nodes are down or reserved. Fix: wait, or another partition",
}
"""Beginnings of Slurm's reasons for waiting."""


def facts_of(line: str) -> dict[str, str]:
    """The fields of a line of `scontrol -o show job`; of a name that occurs twice the first."""
    return dict(reversed(re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", line)))


def of_controller(facts: Mapping[str, str]) -> JobStatus:
    """The status from the fields of `scontrol show job`."""
    restarts = int(facts.get("Restarts", 0))
    again = f"restart {restarts}" if restarts else ""
    reason = facts.get("Reason", "None")
    return _status(
        facts["JobId"], facts["JobState"], facts.get("ExitCode", "0:0"), reason, again
    )  # fmt: skip


def of_accounting(job: str, line: str) -> JobStatus:
    """The status from a line of `sacct`: STATE|EXIT_CODE; CANCELLED has `by UID` after it."""
    state, _, code = line.partition("|")
    return _status(job, state.split()[0].rstrip("+"), code)


def or_memory(status: JobStatus, says_memory: bool) -> JobStatus:
    """The status, with the cause of a SIGKILL where the job's log `says_memory`: Slurm's
    own state says so of the batch step alone, and not under JobAcctGatherParams=OverMemoryKill."""
    if not says_memory or status.exit_code != SIGKILL:
        return status
    return status._replace(state="failed", detail=_MEMORY)


def _status(
    job: str, word: str, code_text: str, reason: str = "None", again: str = ""
) -> JobStatus:
    state: State = STATES.get(word, "unknown")
    if state == "waiting":
        return JobStatus(job, state, ", ".join(filter(None, [_waits_for(reason), again])))
    if state == "running":
        detail = "" if word == "RUNNING" else word.lower()
        return JobStatus(job, state, ", ".join(filter(None, [detail, again])))
    code = _code(code_text)
    if word == "OUT_OF_MEMORY":
        return JobStatus(job, state, _MEMORY, code or SIGKILL)
    if word == "FAILED":
        return ended_with(job, code)
    if state == "interrupted":
        return JobStatus(job, state, _RECLAIMED[word])
    if state == "stopped" and code == Interrupted.exit_code:
        return JobStatus(job, "interrupted", "saved; submit it again to resume", code)
    if state == "done":
        return JobStatus(job, state, again, 0)
    return JobStatus(job, state, "" if state == "stopped" else word)


def _waits_for(reason: str) -> str:
    if reason in ("None", ""):
        return ""
    found = next((said for start, said in _REASONS.items() if reason.startswith(start)), "")
    return f"{reason}: {found}" if found else reason


def _code(text: str) -> int:
    """Slurm's CODE:SIGNAL as a shell's exit code."""
    code, _, signal = text.partition(":")
    return 128 + int(signal) if int(signal or 0) else int(code or 0)
