"""A container's description, as `docker inspect` shows it -> the status of its job."""

from collections.abc import Mapping
from typing import Any

from adapt.errors import Interrupted
from adapt.platforms.platform import JobStatus

MEMORY_FIX = (
    "raise memory_gb of the profile, or lower stream.memory_gb, stream.decoded_mb, stream.threads, "
    "or batch_size of source and target"
)
MACHINE_FIX = (
    "set memory_gb of the profile below the machine's memory, take a machine with more, or lower "
    "stream.memory_gb, stream.decoded_mb, stream.threads, or batch_size of source and target"
)
_SIGTERM, _SIGKILL = 128 + 15, 128 + 9
_MEANINGS = {1: "a bug", 2: "job spec", 3: "storage", 4: "data"}


def status_of(job: str, attributes: Mapping[str, Any]) -> JobStatus:
    """The status of the job of a container that `docker inspect` describes so."""
    state = attributes["State"]
    if state["Status"] == "created":
        return JobStatus(job, "waiting", "created, not started")
    if state["Status"] in ("running", "paused", "restarting"):
        return JobStatus(job, "running", _running_detail(state))
    code = int(state["ExitCode"])
    if code == 0:
        return JobStatus(job, "done", "", 0)
    if code == Interrupted.exit_code:
        return JobStatus(job, "interrupted", "saved; submit it again to resume", code)
    if state["OOMKilled"]:
        return JobStatus(job, "failed", _memory_detail(attributes["HostConfig"]["Memory"]), code)
    if code == _SIGTERM:
        return JobStatus(job, "stopped", "stopped before it began", code)
    return JobStatus(job, "failed", _failed_detail(code, str(state.get("Error") or "")), code)


def _running_detail(state: Mapping[str, Any]) -> str:
    health = state.get("Health") or {}
    if health.get("Status") != "unhealthy":
        return "" if state["Status"] == "running" else str(state["Status"])
    last = (health.get("Log") or [{}])[-1].get("Output", "")
    return f"unhealthy: {last.strip()}"


def _memory_detail(limit_bytes: int) -> str:
    if not limit_bytes:
        return f"the machine itself was out of memory. Fix: {MACHINE_FIX}"
    return f"out of memory ({limit_bytes / 10**9:g} GB). Fix: {MEMORY_FIX}"


def _failed_detail(code: int, error: str) -> str:
    if error:
        return error
    if code == _SIGKILL:
        return (
            "killed: out of memory, out of grace, or by hand. Fix: submit it again, which resumes "
            "from its last checkpoint; raise memory_gb or grace_s of the profile"
        )
    return f"{_MEANINGS.get(code, 'see docs/reliability.md')}; see the end of its log"
