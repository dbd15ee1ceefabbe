"""Kueue: jobs that wait, suspended, until a queue has room for all of their pods at the same time.

A job is created suspended, with the queue's name as a label; Kueue makes a Workload for it and lets
it start. While it waits a deadline (`max_hours`) does not run: Kubernetes counts from the last time
that a job was started. A job that is only suspended would be started again, so a stop deactivates
its Workload, which suspends the job.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from adapt.config.section import Section
from adapt.platforms.kubernetes.names import LabelValue, ObjectName
from adapt.platforms.kubernetes.refusals import ServerRefused

if TYPE_CHECKING:
    from adapt.platforms.kubernetes.api import ApiServer
    from adapt.platforms.kubernetes.profile import KubernetesProfile

VERSIONS = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
"""The newest first; Kueue 0.15 and later serve both."""
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
OF_JOB = "kueue.x-k8s.io/job-uid"
"""The label of a Workload that names its job."""


class Kueue(Section):
    """A queue of Kueue."""

    queue: ObjectName = Field(description="LocalQueue of the namespace.")
    priority: LabelValue | None = Field(
        None, description="WorkloadPriorityClass of the job in its queue; none = the pods'."
    )


class Named(NamedTuple):
    """An object that Kueue should have: its name, its paths by version, and the fix."""

    what: str
    paths: list[str]
    fix: str


def queued(
    manifest: dict[str, Any], suspend: Mapping[str, Any], profile: "KubernetesProfile"
) -> dict[str, Any]:
    """A job's manifest with its queue, suspended by the fields `suspend` of its kind; as it is
    where the profile has no queue."""
    kueue = profile.kueue
    if kueue is None:
        return manifest
    labels = {QUEUE: kueue.queue, **({PRIORITY: kueue.priority} if kueue.priority else {})}
    place = manifest["metadata"]
    return _merged(
        {**manifest, "metadata": {**place, "labels": {**place["labels"], **labels}}}, suspend
    )


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    changed = {
        key: _merged(old.get(key, {}), value) if isinstance(value, Mapping) else value
        for key, value in new.items()
    }
    return {**old, **changed}


def named(profile: "KubernetesProfile") -> list[Named]:
    """The queue and the priority that a profile names."""
    if profile.kueue is None:
        return []
    queue, priority = profile.kueue.queue, profile.kueue.priority
    spaces = [f"/apis/{version}/namespaces/{profile.namespace}" for version in VERSIONS]
    fix = (
        f"name one that kubectl -n {profile.namespace} get localqueues lists; without Kueue remove "
        "`kueue`, or take `kind: volcano`"
    )
    found = [Named(f"queue {queue}", [f"{space}/localqueues/{queue}" for space in spaces], fix)]
    if priority:
        paths = [f"/apis/{version}/workloadpriorityclasses/{priority}" for version in VERSIONS]
        fix = "name one that kubectl get workloadpriorityclasses lists"
        found.append(Named(f"workload priority {priority}", paths, fix))
    return found


def workload_of(
    api: "ApiServer", namespace: str, job: Mapping[str, Any]
) -> tuple[str, dict[str, Any]] | None:
    """The path and the object of a job's Workload; None before Kueue has made it.

    Raises `JobError` where the cluster has no Kueue, or the user's role may not read it.
    """
    refusal: ServerRefused | None = None
    for version in VERSIONS:
        folder = f"/apis/{version}/namespaces/{namespace}/workloads"
        try:
            selector = f"{OF_JOB}={job['metadata']['uid']}"
            items = api.get(folder, labelSelector=selector)["items"]
        except ServerRefused as error:
            if error.code != 404:
                raise
            refusal = error
        else:
            return (f"{folder}/{items[0]['metadata']['name']}", items[0]) if items else None
    assert refusal is not None
    raise refusal


def waits_for(workload: Mapping[str, Any]) -> str:
    """Why a Workload is not started, in Kueue's words; empty where it is."""
    found = (workload.get("status") or {}).get("conditions") or []
    conditions = {one["type"]: one for one in found}
    for name in ("QuotaReserved", "Admitted"):
        one = conditions.get(name, {})
        if one.get("status") == "False":
            return f"in Kueue's queue: {one.get('message') or one.get('reason') or name}"
    return ""
