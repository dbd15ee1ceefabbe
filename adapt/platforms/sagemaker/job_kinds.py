"""Training jobs (`submit`) and processing jobs (`predict --to`): the names of their actions, their
logs, and their descriptions as our statuses."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from adapt.platforms.platform import JobStatus, Request, State
from adapt.platforms.sagemaker.logs import PROCESSING_JOBS, TRAINING_JOBS, Streams

DETAIL_CHARACTERS = 300
_TRANSIENT = ("InternalServerError", "CapacityError")
"""Failures of SageMaker's own."""

_LIMITS = {
    "MaxRuntimeExceeded": "max_hours is over. Fix: submit it again to resume",
    "MaxWaitTimeExceeded": "max_wait_hours is over. Fix: submit it again to resume",
}

_WAITING = {
    "Starting",
    "Pending",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "Downloading",
    "DownloadingTrainingImage",
    "Interrupted",
    "Restarting",
}


class JobKind(NamedTuple):
    """A kind of job: boto3's methods, the keys of name and status, where CloudWatch has its log."""

    create: str
    describe: str
    stop: str
    name_key: str
    status_key: str
    streams: Streams
    nodes_of: Callable[[Mapping[str, Any]], int]
    status_of: Callable[[Mapping[str, Any]], JobStatus]


def training_status(answer: Mapping[str, Any]) -> JobStatus:
    """SageMaker's description of a training job -> its status.

    A fault of SageMaker's own is `interrupted`. A stop by a limit is `stopped`, since only the
    user should extend the limit.
    """
    second, reason = answer["SecondaryStatus"], answer.get("FailureReason", "")
    transitions = answer.get("SecondaryStatusTransitions") or [{}]
    why = _LIMITS.get(second) or reason or transitions[-1].get("StatusMessage", "")
    begun = second not in _WAITING
    return _status(answer["TrainingJobName"], answer["TrainingJobStatus"], begun, second, why,
                   reason)  # fmt: skip


def processing_status(answer: Mapping[str, Any]) -> JobStatus:
    """SageMaker's description of a processing job -> its status; its own message (ExitMessage)
    comes before SageMaker's reason."""
    first, reason = answer["ProcessingJobStatus"], answer.get("FailureReason", "")
    said = answer.get("ExitMessage", "")
    why = f"{said} [{reason}]" if said and reason else said or reason
    begun = "ProcessingStartTime" in answer
    return _status(answer["ProcessingJobName"], first, begun, first, why, reason)


def _status(name: str, first: str, begun: bool, second: str, why: str, reason: str) -> JobStatus:
    codes = re.findall(r"exit code:? *(\d+)", reason, re.IGNORECASE)
    code = int(codes[-1]) if codes else None
    detail = " ".join(f"{second}: {why}".split()).removesuffix(":")[:DETAIL_CHARACTERS]
    state = _state(first, begun, reason, code)
    return JobStatus(name, state, detail, 0 if state == "done" else code)


def _state(first: str, begun: bool, reason: str, code: int | None) -> State:
    if first == "InProgress":
        return "running" if begun else "waiting"
    if first == "Stopped":
        return "stopped"
    if first == "Failed":
        return "interrupted" if code == 75 or reason.startswith(_TRANSIENT) else "failed"
    others: dict[str, State] = {"Completed": "done", "Stopping": "running"}
    return others.get(first, "unknown")


def _training_nodes(answer: Mapping[str, Any]) -> int:
    return int(answer.get("ResourceConfig", {}).get("InstanceCount", 1))


def _processing_nodes(answer: Mapping[str, Any]) -> int:
    return int(answer["ProcessingResources"]["ClusterConfig"].get("InstanceCount", 1))


TRAINING = JobKind(
    "create_training_job",
    "describe_training_job",
    "stop_training_job",
    "TrainingJobName",
    "TrainingJobStatus",
    TRAINING_JOBS,
    _training_nodes,
    training_status,
)
PROCESSING = JobKind(
    "create_processing_job",
    "describe_processing_job",
    "stop_processing_job",
    "ProcessingJobName",
    "ProcessingJobStatus",
    PROCESSING_JOBS,
    _processing_nodes,
    processing_status,
)
KINDS = (TRAINING, PROCESSING)
"""In the order in which a name is looked for."""


def kind_of(request: Request) -> JobKind:
    """The kind of job that a request creates."""
    return next(kind for kind in KINDS if kind.name_key in request)
