"""The status of a job from its object, its pods and their events: pure functions of plain data."""

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from adapt.errors import Interrupted
from adapt.places.kubernetes import RETRIED_CODE
from adapt.platforms.kubernetes.kinds import JobPhase, Kind
from adapt.platforms.kubernetes.pod import STOPPED
from adapt.platforms.platform import JobStatus, State

Object = Mapping[str, Any]

INTERRUPTED_CODES = (Interrupted.exit_code, RETRIED_CODE)
KILLED = 128 + signal.SIGKILL

STOPPING = "stopping: the pods save and end"

LINE = 400
"""Characters of a detail."""

_FIXES = {
    "ErrImagePull": "correct `image` or image_pull_secrets",
    "ImagePullBackOff": "correct `image` or image_pull_secrets",
    "InvalidImageName": "correct `image`, which is no image's name",
    "CreateContainerConfigError": "create that `secret`",
    "Unschedulable": "lower gpus, cpu, memory_gb, scratch_gb, or change node_selector",
    "FailedMount": "create the claims of `volumes`",
    "FailedAttachVolume": "use claims in `volumes` that several nodes may mount at the same time",
    "FailedCreate": "raise the namespace's quota, or change the policy that refuses the pods",
    "OOMKilled": "raise memory_gb (/dev/shm is part of it), or lower stream.memory_gb, "
    "stream.decoded_mb, stream.threads, batch_size",
    "Evicted": "raise scratch_gb, or lower stream.cache_gb",
}


class PodEnd(NamedTuple):
    """How a pod ended: its container's exit code where it had one, and the last message."""

    exit_code: int | None
    reason: str
    message: str
    disrupted: bool
    time: str

    @property
    def interrupted(self) -> bool:
        """Return whether the same job resumes when it is started again."""
        return self.disrupted or self.exit_code in INTERRUPTED_CODES


def status_of(
    kind: Kind, job: Object, pods: Sequence[Object], events: Iterable[Object]
) -> JobStatus:
    """A job's state; `events` are the warnings about it and its pods, the oldest first."""
    name = job["metadata"]["name"]
    phase, stopped = kind.phase(dict(job)), was_stopped(job)
    detail = _sentence(phase.reason, phase.message)
    if phase.name == "done":
        return JobStatus(name, "done", detail, 0)
    if phase.name == "failed":
        return _failed(name, phase, stopped, ends_of(kind, pods))
    if phase.name == "stopped" or (stopped and phase.name == "suspended"):
        if any(map(_alive, pods)):
            return JobStatus(name, "running", STOPPING)
        return JobStatus(name, "stopped", detail)
    if phase.name == "suspended":
        return JobStatus(name, "waiting", detail)
    if stopped or phase.name == "stopping":
        return JobStatus(name, "running", STOPPING)
    if any(phase_of(pod) == "Running" for pod in pods):
        return JobStatus(name, "running", detail)
    return JobStatus(name, "waiting", trouble(pods, events) or detail)


def was_stopped(job: Object) -> bool:
    """Return whether it was stopped by `stop`."""
    return STOPPED in (job["metadata"].get("annotations") or {})


def _failed(name: str, phase: JobPhase, stopped: bool, ends: Sequence[PodEnd]) -> JobStatus:
    detail = _sentence(phase.reason, phase.message)
    if stopped or phase.reason == "DeadlineExceeded":
        fix = "" if stopped else ": max_hours is over. Fix: submit it again to resume"
        return JobStatus(name, "stopped", detail + fix)
    if not ends:
        return JobStatus(name, "failed", detail)
    end = min(ends, key=lambda one: (one.interrupted, one.time))
    message = _sentence(end.reason, end.message)
    code = "" if end.exit_code is None else f", exit code {end.exit_code}"
    state: State = "interrupted" if end.interrupted else "failed"
    return JobStatus(name, state, f"{phase.reason}{code}: {message}", end.exit_code)


def phase_of(pod: Object) -> str:
    """Pending, Running, Succeeded, Failed or Unknown."""
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _alive(pod: Object) -> bool:
    return phase_of(pod) in ("Pending", "Running")


def node_of(kind: Kind, pod: Object) -> int:
    """A pod's number; the workers of a PyTorchJob come after its master."""
    labels = pod["metadata"].get("labels") or {}
    number = labels.get(kind.node_label) or "0"
    first = labels.get("training.kubeflow.org/replica-type") == "worker"
    return int(number) + first if number.isdigit() else 0


def ends_of(kind: Kind, pods: Sequence[Object]) -> list[PodEnd]:
    """How the newest pod of each node ended, of those that ended badly."""
    newest = {node_of(kind, pod): pod for pod in sorted(pods, key=_created)}
    return [end for end in map(_end, newest.values()) if end is not None]


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _end(pod: Object) -> PodEnd | None:
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return None
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    for container in status.get("containerStatuses") or []:
        end = (container.get("state") or {}).get("terminated")
        if end and end.get("exitCode"):
            reason, message = end.get("reason") or "Error", end.get("message") or ""
            if disrupted:
                message = message or disruption.get("message") or ""
            elif end["exitCode"] == KILLED and reason == "Error" and not message:
                message = "killed by the system (137): out of memory, or not done within the grace"
            return PodEnd(end["exitCode"], reason, message, disrupted, end.get("finishedAt") or "")
    return PodEnd(
        None, status.get("reason") or "Failed", status.get("message") or "", disrupted, ""
    )


def trouble(pods: Sequence[Object], events: Iterable[Object]) -> str:
    """Why a job does not start, as the cluster reports it, with the fix; else empty.

    The state of the pods comes before their events, which stay for an hour.
    """
    for pod in filter(_alive, pods):
        status = pod.get("status") or {}
        for container in status.get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return _sentence(waiting["reason"], waiting.get("message") or "")
        for one in status.get("conditions") or []:
            if one["type"] == "PodScheduled" and one.get("status") == "False":
                return _sentence(one.get("reason") or "Unschedulable", one.get("message") or "")
    last = [*events][-1:]
    return _sentence(last[0].get("reason") or "", last[0].get("message") or "") if last else ""


def _sentence(reason: str, message: str) -> str:
    """`Reason: first line of the message. Fix: ...`"""
    first = (message.strip().splitlines() or [""])[0][:LINE]
    problem = ": ".join(filter(None, [reason, first])).removesuffix(".")
    fix = _FIXES.get(reason)
    return f"{problem}. Fix: {fix}" if fix else problem
