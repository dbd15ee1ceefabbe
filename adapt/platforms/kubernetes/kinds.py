"""The kinds of job that a cluster may know, one row of KINDS each: the job's object, its phase, and
how it is stopped.

To stop is to suspend (Volcano: abort): the pods get SIGTERM and their whole grace, and the object
stays for `status`; a job that is deleted leaves nothing to read.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from adapt.platforms.kubernetes import coscheduling
from adapt.platforms.kubernetes.jobs import (
    Manifest,
    indexed_job,
    jobset,
    pytorchjob,
    trainjob,
    volcano,
)
from adapt.platforms.kubernetes.profile import KindName, KubernetesProfile
from adapt.platforms.platform import Submission


class JobPhase(NamedTuple):
    """The phase in a job's object; its pods know more."""

    name: Literal["active", "suspended", "stopping", "stopped", "done", "failed"]
    reason: str = ""
    message: str = ""


class Needed(NamedTuple):
    """An object that a kind of job needs in the cluster: its name, path, and the fix."""

    what: str
    path: str
    fix: str


class Kind(NamedTuple):
    """A row of KINDS: `plural` of `group`/`version` is the resource, `needs` what installs it.

    `job_label` is the label of pods that names their job, `node_label` the one that numbers them.
    `suspend` is merged into the object to stop it; empty where a Volcano command does that.
    `needed` are objects of the cluster. `commands` is the group of commands that stop it. With
    `service` several nodes meet through a Service of ours. `restarts` is true where every
    interruption is retried: a TrainJob's runtime may do so, which is not known here, and a
    PyTorchJob fails where a node is reclaimed. `longest_name` leaves room in labels of 63
    characters: pods and hosts are named after their job, with a suffix.
    """

    kind: str
    group: str
    version: str
    plural: str
    needs: str
    job_label: str
    node_label: str
    container: str
    build: Callable[[Submission, KubernetesProfile], Manifest]
    phase: Callable[[Manifest], JobPhase]
    suspend: Manifest
    needed: Callable[[KubernetesProfile], tuple[Needed, ...]] = lambda _: ()
    commands: str = ""
    service: bool = False
    restarts: bool = False
    longest_name: int = 50

    @property
    def api_version(self) -> str:
        """As manifests have it."""
        return f"{self.group}/{self.version}"


def phase_of_conditions(job: Manifest) -> JobPhase:
    """All but Volcano's jobs have conditions; an end counts more than the others."""
    conditions = job.get("status", {}).get("conditions") or []
    found = {one["type"]: one for one in conditions if one.get("status") == "True"}
    ends: list[tuple[str, Literal["done", "failed", "suspended"]]] = [
        ("Complete", "done"),
        ("Completed", "done"),
        ("Succeeded", "done"),
        ("Failed", "failed"),
        ("Suspended", "suspended"),
    ]
    for name, phase in ends:
        if name in found:
            one = found[name]
            return JobPhase(phase, one.get("reason") or name, one.get("message") or "")
    return JobPhase("active")


_VOLCANO: Mapping[str, Literal["stopping", "stopped", "done", "failed"]] = {
    "Completed": "done",
    "Failed": "failed",
    "Terminated": "failed",
    "Aborting": "stopping",
    "Aborted": "stopped",
}


def phase_of_state(job: Manifest) -> JobPhase:
    """A Volcano job has a state."""
    state = job.get("status", {}).get("state") or {}
    phase = state.get("phase") or "Pending"
    message = state.get("message") or state.get("reason") or ""
    return JobPhase(_VOLCANO.get(phase, "active"), phase, message)


def _runtime(profile: KubernetesProfile) -> tuple[Needed, ...]:
    group = "/apis/trainer.kubeflow.org/v1alpha1"
    path = f"{group}/namespaces/{profile.namespace}/trainingruntimes/{profile.runtime}"
    if profile.runtime_kind == "ClusterTrainingRuntime":
        path = f"{group}/clustertrainingruntimes/{profile.runtime}"
    fix = "name one that kubectl get clustertrainingruntimes,trainingruntimes lists"
    return (Needed(f"runtime {profile.runtime}", path, fix),)


def _queue(profile: KubernetesProfile) -> tuple[Needed, ...]:
    path = f"/apis/scheduling.volcano.sh/v1beta1/queues/{profile.queue}"
    return (Needed(f"queue {profile.queue}", path, "name one that kubectl get queues lists"),)


KINDS: dict[KindName, Kind] = {
    "indexed_job": Kind(
        kind="Job",
        group="batch",
        version="v1",
        plural="jobs",
        needs="Kubernetes 1.28 or later",
        job_label="batch.kubernetes.io/job-name",
        node_label="batch.kubernetes.io/job-completion-index",
        container="main",
        build=indexed_job,
        phase=phase_of_conditions,
        suspend={"spec": {"suspend": True}},
        service=True,
        restarts=True,
    ),
    "trainjob": Kind(
        kind="TrainJob",
        group="trainer.kubeflow.org",
        version="v1alpha1",
        plural="trainjobs",
        needs="Kubeflow Trainer 2.3 or later",
        job_label="jobset.sigs.k8s.io/jobset-name",
        node_label="batch.kubernetes.io/job-completion-index",
        container="node",
        build=trainjob,
        phase=phase_of_conditions,
        suspend={"spec": {"suspend": True}},
        needed=_runtime,
        longest_name=45,
    ),
    "jobset": Kind(
        kind="JobSet",
        group="jobset.x-k8s.io",
        version="v1alpha2",
        plural="jobsets",
        needs="JobSet 0.10 or later",
        job_label="jobset.sigs.k8s.io/jobset-name",
        node_label="batch.kubernetes.io/job-completion-index",
        container="main",
        build=jobset,
        phase=phase_of_conditions,
        suspend={"spec": {"suspend": True}},
        restarts=True,
        longest_name=45,
    ),
    "pytorchjob": Kind(
        kind="PyTorchJob",
        group="kubeflow.org",
        version="v1",
        plural="pytorchjobs",
        needs="Kubeflow's training operator 1.7 or later",
        job_label="training.kubeflow.org/job-name",
        node_label="training.kubeflow.org/replica-index",
        container="pytorch",
        build=pytorchjob,
        phase=phase_of_conditions,
        suspend={"spec": {"runPolicy": {"suspend": True}}},
    ),
    "volcano": Kind(
        kind="Job",
        group="batch.volcano.sh",
        version="v1alpha1",
        plural="jobs",
        needs="Volcano",
        job_label="volcano.sh/job-name",
        node_label="volcano.sh/task-index",
        container="main",
        build=volcano,
        phase=phase_of_state,
        suspend={},
        needed=_queue,
        commands="bus.volcano.sh",
        restarts=True,
    ),
}

COMMANDS = "bus.volcano.sh/v1alpha1"

_PLURALS = {
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Service"): "services",
    ("apps/v1", "Deployment"): "deployments",
    ("serving.kserve.io/v1beta1", "InferenceService"): "inferenceservices",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    (COMMANDS, "Command"): "commands",
    (f"{coscheduling.GROUP}/{coscheduling.VERSION}", "PodGroup"): "podgroups",
    **{(kind.api_version, kind.kind): kind.plural for kind in KINDS.values()},
}


def collection(manifest: Manifest) -> str:
    """The path below which an object of a manifest's kind is made."""
    version = manifest["apiVersion"]
    plural = _PLURALS[version, manifest["kind"]]
    return path_of(version, manifest["metadata"]["namespace"], plural)


def path_of(version: str, namespace: str, plural: str, name: str = "") -> str:
    """The path of a resource in a namespace, or of one object of it."""
    root = "/api" if version == "v1" else "/apis"
    return f"{root}/{version}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")
