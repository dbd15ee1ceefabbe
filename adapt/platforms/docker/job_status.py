"""A container's description, as `docker inspect` shows it -> the status of its job."""

from collections.abc import Mapping
from typing import Any

from adapt.platforms.exit_codes import MEMORY_FIX, ended_with
from adapt.platforms.platform import JobStatus

MACHINE_FIX = (
    "set memory_gb of the profile below the machine's memory, take a machine with more, or lower "
    "stream.memory_gb, stream.decoded_mb, stream.threads, or batch_size of source and target"
)


def status_of(job: str, attributes: Mapping[str, Any]) -> JobStatus:
    """The status of the job of a container that `docker inspect` describes so."""
    state = attributes["State"]
    if state["Status"] == "created":
        return JobStatus(job, "waiting", "created, not started")
    if state["Status"] in ("running", "paused", "restarting"):
        return JobStatus(job, "running", _running_detail(state))
    code = int(state["ExitCode"])
    ended = ended_with(job, code)
    if ended.state in ("done", "interrupted"):
        return ended
    if state["OOMKilled"]:
        detail = _memory_detail(attributes["HostConfig"]["Memory"])
        return JobStatus(job, "failed", detail, code)
    error = str(state.get("Error") or "")
    return ended._replace(detail=error) if error and ended.state == "failed" else ended


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
