"""The status of a job of a cluster, from its object, its pods and their events."""

import re
from typing import Any

import pytest

from adapt.platforms.platform import JobStatus
from tests.platforms.kubernetes_double import Cluster
from tests.platforms.kubernetes_jobs import (
    EACH_KIND,
    JOBS,
    Connect,
    asked,
    conditions,
    fail,
    pod_labels,
)


@pytest.mark.slow
@EACH_KIND
def test_a_job_waits_runs_and_is_done(kind: str, cluster: Cluster, at: Connect) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    assert client.status("tiny-1") == JobStatus("tiny-1", "waiting", *_volcano(kind, "Pending"))
    cluster.add_pod("tiny-1-a", pod_labels(kind))
    thing = cluster.job(*JOBS[kind], "tiny-1")
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Running"}}
    assert client.status("tiny-1") == JobStatus("tiny-1", "running", *_volcano(kind, "Running"))
    cluster.end_pod("tiny-1-a", 0)
    words = {"jobset": "Completed", "pytorchjob": "Succeeded", "volcano": "Completed"}
    conditions(thing, words.get(kind, "Complete"))
    if kind == "volcano":
        thing["status"] = {"state": {"phase": "Completed"}}
    assert client.status("tiny-1")[:2] == ("tiny-1", "done")
    assert client.status("tiny-1").exit_code == 0


def _volcano(kind: str, phase: str) -> tuple[str, ...]:
    return (phase,) if kind == "volcano" else ()


ENDS: list[tuple[int, dict[str, Any], str, str]] = [
    (2, {}, "failed", "exit code 2: Error: JobError: model.encoder: unknown"),
    (75, {}, "interrupted", "exit code 75"),
    (143, {}, "interrupted", "exit code 143"),
    (
        137,
        {},
        "failed",
        r"exit code 137: Error: killed by the system \(137\): out of memory, or not done within "
        "the grace$",
    ),
    (
        137,
        {"message": "Killed: rank 0 died"},
        "failed",
        "exit code 137: Error: Killed: rank 0 died$",
    ),
    (137, {"reason": "OOMKilled"}, "failed", "OOMKilled. Fix: raise memory_gb"),
    (
        137,
        {"conditions": [{"type": "DisruptionTarget", "status": "True", "message": "preempting"}]},
        "interrupted",
        "exit code 137: Error: preempting$",
    ),
]


@pytest.mark.slow
@EACH_KIND
@pytest.mark.parametrize(("code", "more", "state", "said"), ENDS)
def test_a_failed_job_says_why(
    kind: str,
    code: int,
    more: dict[str, Any],
    state: str,
    said: str,
    cluster: Cluster,
    at: Connect,
) -> None:
    client = at(kind=kind)
    client.submit(asked(kind=kind))
    cluster.add_pod("tiny-1-a", pod_labels(kind))
    message = "JobError: model.encoder: unknown\nTraceback" if code == 2 else ""
    cluster.end_pod("tiny-1-a", code, **{"message": message, **more})
    fail(cluster, kind, "BackoffLimitExceeded")
    status = client.status("tiny-1")
    assert (status.state, status.exit_code) == (state, code)
    assert re.search(said, status.detail), status.detail


def test_the_first_failure_of_the_last_attempt_counts(cluster: Cluster, at: Connect) -> None:
    client = at(nodes=2)
    client.submit(asked(nodes=2))
    for name, node, code, message in (
        ("old", 0, 3, "StoreError: away"),
        ("lost", 0, 75, "RankLost"),
        ("guilty", 1, 4, "DataError: a shard is broken"),
    ):
        cluster.add_pod(name, pod_labels("indexed_job", node))
        cluster.end_pod(name, code, message)
    fail(cluster, "indexed_job", "PodFailurePolicy", "Container main failed")
    status = client.status("tiny-1")
    detail = "PodFailurePolicy, exit code 4: Error: DataError: a shard is broken"
    assert status == JobStatus("tiny-1", "failed", detail, 4)


def test_a_pod_that_was_evicted_for_its_disk_says_so(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    pod = cluster.add_pod("tiny-1-a", pod_labels("indexed_job"))
    full = 'Usage of EmptyDir volume "scratch" exceeds the limit "100G".'
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": full}
    fail(cluster, "indexed_job", "BackoffLimitExceeded")
    status = client.status("tiny-1")
    assert (status.state, status.exit_code) == ("failed", None)
    assert status.detail.endswith(
        f"Evicted: {full.removesuffix('.')}. Fix: raise scratch_gb, or lower stream.cache_gb"
    )


def test_a_failed_job_without_pods_has_its_condition(cluster: Cluster, at: Connect) -> None:
    client = at(kind="trainjob")
    client.submit(asked(kind="trainjob"))
    fail(cluster, "trainjob", "TrainingRuntimeNotSupported", "no such runtime")
    detail = "TrainingRuntimeNotSupported: no such runtime"
    assert client.status("tiny-1") == JobStatus("tiny-1", "failed", detail)


def test_a_deadline_stops_a_job(cluster: Cluster, at: Connect) -> None:
    client = at()
    client.submit(asked())
    fail(cluster, "indexed_job", "DeadlineExceeded", "Job was active longer than specified")
    status = client.status("tiny-1")
    assert status.state == "stopped" and status.exit_code is None
    assert status.detail.endswith(": max_hours is over. Fix: submit it again to resume")


def waiting(reason: str, message: str) -> dict[str, Any]:
    container = {"name": "main", "state": {"waiting": {"reason": reason, "message": message}}}
    return {"phase": "Pending", "containerStatuses": [container]}


UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/5 nodes are available: 5 Insufficient nvidia.com/gpu.",
        }
    ],
}
TROUBLES: list[tuple[dict[str, Any], str]] = [
    (
        waiting("ImagePullBackOff", 'Back-off pulling image "x"'),
        'ImagePullBackOff: Back-off pulling image "x". Fix: correct `image` or image_pull_secrets',
    ),
    (
        waiting("CreateContainerConfigError", 'secret "keys" not found'),
        'CreateContainerConfigError: secret "keys" not found. Fix: create that `secret`',
    ),
    (
        UNSCHEDULABLE,
        "Unschedulable: 0/5 nodes are available: 5 Insufficient nvidia.com/gpu. Fix: lower gpus",
    ),
    (
        waiting("ContainerCreating", ""),
        "FailedMount: claim is lost. Fix: create the claims",
    ),
]


@pytest.mark.parametrize(("status", "said"), TROUBLES)
def test_a_job_that_does_not_start_says_why(
    status: dict[str, Any], said: str, cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("tiny-1-a", pod_labels("indexed_job"), **status)
    event(cluster, "one", "tiny-1-a", "FailedMount", "claim is lost")
    event(cluster, "two", "tiny-12", "FailedCreate", "of another job")
    found = client.status("tiny-1")
    assert found.state == "waiting" and found.detail.startswith(said)


def event(cluster: Cluster, name: str, about: str, reason: str, message: str) -> None:
    thing = {
        "metadata": {"name": name},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"name": about},
        "lastTimestamp": "2026-11-27T10:00:00Z",
    }
    cluster.put("v1", "lab", "events", thing)


def test_a_job_without_pods_has_its_events_where_one_may_see_them(
    cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    event(cluster, "one", "tiny-1", "FailedCreate", "exceeded quota: compute")
    said = (
        "FailedCreate: exceeded quota: compute. Fix: raise the namespace's quota, or change the "
        "policy that refuses the pods"
    )
    assert client.status("tiny-1").detail == said
    cluster.denied.add(("list", "events"))
    assert client.status("tiny-1") == JobStatus("tiny-1", "waiting", "")
