"""The object of each kind of job: pure functions from a submission and a profile to a manifest.

They share the pod (`adapt.platforms.kubernetes.pod`); here are the fields of each kind about
nodes, attempts and deadlines.
"""

from typing import Any

from adapt.platforms.kubernetes.pod import (
    COMMAND,
    NEVER_AGAIN,
    container_security,
    environment,
    metadata,
    mounts,
    placement,
    pod_metadata,
    processes,
    resources,
    secret_environment,
    template,
    together,
    volumes,
)
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.platform import Submission

Manifest = dict[str, Any]


def indexed_job(submission: Submission, profile: KubernetesProfile) -> Manifest:
    """A Job whose pods are numbered and find the first by its name in a headless Service."""
    name = submission.name
    subdomain = {"subdomain": name} if profile.nodes > 1 else {}
    spec = {
        **_numbered(profile),
        # where one pod is lost the others end too, and each counts
        "backoffLimit": profile.retries * profile.nodes,
        **_pod_failures("Ignore"),
        **_deadline(profile),
        "ttlSecondsAfterFinished": round(3600 * profile.keep_hours),
        "template": _numbered_pod(submission, profile, f"{name}-0.{name}", **subdomain),
    }
    return _object("batch/v1", "Job", submission, profile, spec)


def jobset(submission: Submission, profile: KubernetesProfile) -> Manifest:
    """A JobSet of one Indexed Job, whose pods it names itself.

    The first pod that fails ends the Job, and the set makes it anew when all its pods are gone:
    two attempts never write to the same run. A Job says by a message alone which of its rules
    ended it.
    """
    name = submission.name
    rules = [
        {
            "name": "disrupted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": ["has condition DisruptionTarget"],
        },
        {
            "name": "never_again",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
        },
    ]
    job = {
        **_numbered(profile),
        "backoffLimit": 0,
        **_pod_failures("FailJob"),
        "template": _numbered_pod(submission, profile, f"{name}-node-0-0.{name}"),
    }
    spec = {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": {
            "maxRestarts": profile.retries,
            "restartStrategy": "BlockingRecreate",
            "rules": rules,
        },
        "ttlSecondsAfterFinished": round(3600 * profile.keep_hours),
        "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": job}}],
    }
    return _object("jobset.x-k8s.io/v1alpha2", "JobSet", submission, profile, spec)


def _numbered(profile: KubernetesProfile) -> Manifest:
    """A pod for each node."""
    return {
        "completionMode": "Indexed",
        "completions": profile.nodes,
        "parallelism": profile.nodes,
    }


def _numbered_pod(
    submission: Submission, profile: KubernetesProfile, first: str, **more: str
) -> Manifest:
    """Its pods, the first of several under the host name `first`."""
    nodes = {
        "PET_NNODES": str(profile.nodes),
        "PET_NPROC_PER_NODE": str(processes(profile)),
        **({"PET_MASTER_ADDR": first} if profile.nodes > 1 else {}),
    }
    pod = template(
        submission,
        profile,
        "main",
        **more,
        restartPolicy="Never",
        volumes=volumes(submission, profile),
    )
    pod["spec"]["containers"][0]["env"] = environment(submission, profile, **nodes)
    return pod


def _pod_failures(disrupted: str) -> Manifest:
    """The action for pods whose node went, and the end for what another attempt ends with too."""
    never_again = {"containerName": "main", "operator": "In", "values": NEVER_AGAIN}
    condition = {"type": "DisruptionTarget", "status": "True"}
    rules = [
        {"action": disrupted, "onPodConditions": [condition]},
        # 1.28 to 1.30 want the empty list
        {"action": "FailJob", "onExitCodes": never_again, "onPodConditions": []},
    ]
    return {"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}}


def trainjob(submission: Submission, profile: KubernetesProfile) -> Manifest:
    """Kubeflow Trainer 2: a runtime of the cluster, and patches for its pods of the job `node`.

    `trainer` is always set: without it the pods would not know of one another.
    """
    patch = {
        **placement(profile),
        **together(submission, profile),
        "volumes": volumes(submission, profile),
        "containers": [
            {
                "name": "node",
                "volumeMounts": mounts(profile),
                "securityContext": container_security(profile.pods.ipc_lock),
            }
        ],
    }
    pod = {"metadata": pod_metadata(submission, profile), "spec": patch}
    node = {"name": "node", "template": {"spec": {"template": pod}}}
    runtime_spec = {"template": {"spec": {"replicatedJobs": [node]}}}
    spec = {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": profile.runtime_kind,
            "name": profile.runtime,
        },
        **_deadline(profile),
        "trainer": {
            "image": profile.image,
            "command": COMMAND,
            "args": ["run"],
            "env": [
                *environment(submission, profile),
                *secret_environment(submission, profile),
            ],
            "numNodes": profile.nodes,
            "numProcPerNode": processes(profile),
            "resourcesPerNode": resources(profile),
        },
        "runtimePatches": [{"manager": "segadapt/submit", "trainingRuntimeSpec": runtime_spec}],
    }
    return _object("trainer.kubeflow.org/v1alpha1", "TrainJob", submission, profile, spec)


def pytorchjob(submission: Submission, profile: KubernetesProfile) -> Manifest:
    """Kubeflow's training operator 1. A pod starts again on exit codes from 128 on, as often as it
    takes: the operator counts container restarts, and there are none."""
    pod = template(submission, profile, "pytorch", volumes=volumes(submission, profile))
    policy = "ExitCode" if profile.retries else "Never"
    replicas = {"Master": {"replicas": 1, "restartPolicy": policy, "template": pod}}
    if profile.nodes > 1:
        others = {"replicas": profile.nodes - 1, "restartPolicy": policy, "template": pod}
        replicas["Worker"] = others
    spec = {
        "nprocPerNode": str(processes(profile)),
        "runPolicy": {
            "backoffLimit": profile.retries,
            "cleanPodPolicy": "Running",  # the pods that a failed one leaves waiting
            **_deadline(profile),
            "ttlSecondsAfterFinished": round(3600 * profile.keep_hours),
        },
        "pytorchReplicaSpecs": replicas,
    }
    return _object("kubeflow.org/v1", "PyTorchJob", submission, profile, spec)


def volcano(submission: Submission, profile: KubernetesProfile) -> Manifest:
    """Volcano: all pods start together or none, and when one is lost all start again.

    The first policy that matches counts. Volcano reads `maxRetry: 0` as 3, so a job without
    restarts is ended by its policy.
    """
    pod = template(
        submission,
        profile,
        "main",
        restartPolicy="Never",
        volumes=volumes(submission, profile),
    )
    again = "RestartJob" if profile.retries else "TerminateJob"
    spec = {
        "schedulerName": "volcano",
        "queue": profile.queue,
        "minAvailable": profile.nodes,
        "maxRetry": max(1, profile.retries),
        **({"priorityClassName": profile.priority_class} if profile.priority_class else {}),
        "plugins": {"env": [], "svc": ["--publish-not-ready-addresses=true"]},
        "policies": [
            *({"exitCode": code, "action": "TerminateJob"} for code in NEVER_AGAIN),
            {"events": ["PodEvicted", "PodFailed"], "action": again},
        ],
        "ttlSecondsAfterFinished": round(3600 * profile.keep_hours),
        "tasks": [{"name": "worker", "replicas": profile.nodes, "template": pod}],
    }
    return _object("batch.volcano.sh/v1alpha1", "Job", submission, profile, spec)


def _deadline(profile: KubernetesProfile) -> Manifest:
    if profile.max_hours is None:
        return {}
    return {"activeDeadlineSeconds": max(1, round(3600 * profile.max_hours))}


def _object(
    api_version: str, kind: str, submission: Submission, profile: KubernetesProfile, spec: Manifest
) -> Manifest:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata(submission, profile),
        "spec": spec,
    }
