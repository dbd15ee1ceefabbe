"""How a job is, from its object, its pods and their events: pure functions over plain data."""

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from adapt.errors import Interrupted
from adapt.places.kubernetes import RETRIED_CODE
from adapt.platforms.kubernetes.kinds import Kind, Outcome
from adapt.platforms.kubernetes.pod import STOPPED
from adapt.platforms.platform import JobStatus, State

Object = Mapping[str, Any]

INTERRUPTED_CODES = (Interrupted.exit_code, RETRIED_CODE)
KILLED = 128 + signal.SIGKILL

STOPPING = "stopping: the pods save and end"

LINE = 400
"""Characters of a detail."""

_CURES = {
    "ErrImagePull": "is `image` right, and image_pull_secrets?",
    "ImagePullBackOff": "is `image` right, and image_pull_secrets?",
    "InvalidImageName": "`image` is no image's name",
    "CreateContainerConfigError": "is there such a `secret`?",
    "Unschedulable": "no node has what gpus, cpu, memory_gb, scratch_gb, node_selector ask for",
    "FailedMount": "are the claims of `volumes` there?",
    "FailedAttachVolume": "may several nodes have the claims of `volumes` at once?",
    "FailedCreate": "the namespace's quota or policy refuses the pods",
    "OOMKilled": "raise memory_gb (/dev/shm is part of it), or lower stream.memory_gb, "
    "stream.decoded_mb, stream.threads, batch_size",
    "Evicted": "raise scratch_gb, or lower stream.cache_gb",
}


class PodEnd(NamedTuple):
    """How a pod ended: its container's exit code where it had one, and the last words."""

    exit_code: int | None
    reason: str
    message: str
    disrupted: bool
    time: str

    @property
    def interrupted(self) -> bool:
        """Whether the same job goes on where it is started again."""
        return self.disrupted or self.exit_code in INTERRUPTED_CODES


def status_of(
    kind: Kind, job: Object, pods: Sequence[Object], events: Iterable[Object]
) -> JobStatus:
    """A job's state; `events` are the warnings about it and its pods, the oldest first."""
    name = job["metadata"]["name"]
    outcome, asked = kind.outcome(dict(job)), was_stopped(job)
    detail = _sentence(outcome.reason, outcome.message)
    if outcome.phase == "done":
        return JobStatus(name, "done", detail, 0)
    if outcome.phase == "failed":
        return _failed(name, outcome, asked, ends_of(kind, pods))
    if outcome.phase == "stopped" or (asked and outcome.phase == "suspended"):
        if any(map(_alive, pods)):
            return JobStatus(name, "running", STOPPING)
        return JobStatus(name, "stopped", detail)
    if outcome.phase == "suspended":
        return JobStatus(name, "waiting", detail)
    if asked or outcome.phase == "stopping":
        return JobStatus(name, "running", STOPPING)
    if any(phase_of(pod) == "Running" for pod in pods):
        return JobStatus(name, "running", detail)
    return JobStatus(name, "waiting", trouble(pods, events) or detail)


def was_stopped(job: Object) -> bool:
    """Whether somebody asked through `stop`."""
    return STOPPED in (job["metadata"].get("annotations") or {})


def _failed(name: str, outcome: Outcome, asked: bool, ends: Sequence[PodEnd]) -> JobStatus:
    detail = _sentence(outcome.reason, outcome.message)
    if asked or outcome.reason == "DeadlineExceeded":
        cure = "" if asked else "; max_hours is over; submit it again to go on"
        return JobStatus(name, "stopped", detail + cure)
    if not ends:
        return JobStatus(name, "failed", detail)
    end = min(ends, key=lambda one: (one.interrupted, one.time))
    said = _sentence(end.reason, end.message)
    code = "" if end.exit_code is None else f", exit code {end.exit_code}"
    state: State = "interrupted" if end.interrupted else "failed"
    return JobStatus(name, state, f"{outcome.reason}{code}: {said}", end.exit_code)


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
            reason, said = end.get("reason") or "Error", end.get("message") or ""
            if disrupted:
                said = said or disruption.get("message") or ""
            elif end["exitCode"] == KILLED and reason == "Error" and not said:
                said = "killed by the system (137): out of memory, or not done within the grace"
            return PodEnd(end["exitCode"], reason, said, disrupted, end.get("finishedAt") or "")
    return PodEnd(
        None, status.get("reason") or "Failed", status.get("message") or "", disrupted, ""
    )


def trouble(pods: Sequence[Object], events: Iterable[Object]) -> str:
    """Why a job does not start, in the cluster's words, with the cure; empty where nothing is said.

    What the pods say now comes before their events, which stay for an hour.
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
    """`Reason: first line of the message; the cure`."""
    first = (message.strip().splitlines() or [""])[0][:LINE]
    cure = _CURES.get(reason)
    return ": ".join(filter(None, [reason, first])) + (f"; {cure}" if cure else "")
