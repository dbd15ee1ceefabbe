"""The pod of a job: one container, the same for every kind of job.

Non-root (uid 1000, gid 100, as in the image) on a read-only root, so that the strictest Pod
Security Standard accepts it. The spec is a file of a ConfigMap; secrets come from a Secret by name.
"""

from typing import Any

from adapt.errors import DataError, JobError
from adapt.platforms.kubernetes.coscheduling import group_label, scheduler
from adapt.platforms.kubernetes.pod_settings import (
    affinity,
    container_fields,
    pod_fields,
    scratch_volume,
)
from adapt.platforms.kubernetes.profile import KubernetesProfile, PodVolume, Toleration
from adapt.platforms.platform import Submission

MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
RUN = "segadapt/run"
STOPPED = "segadapt/stopped"

COMMAND = ["python", "/opt/segadapt/entrypoint.py"]
"""The image's entrypoint, for a runtime that replaces it."""

SPEC_FOLDER, SPEC_FILE = "/etc/segadapt", "job.yaml"

NEVER_AGAIN = [1, JobError.exit_code, DataError.exit_code]
"""Exit codes that another attempt would end with too: a bug, the job spec, the data. A store (3)
may have recovered by then."""

SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
)


def labels(submission: Submission) -> dict[str, str]:
    """The labels of every object of a submission."""
    return {
        "app.kubernetes.io/name": "segadapt",
        INSTANCE: submission.name,
        MANAGED_BY: "segadapt",
    }


def metadata(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """The metadata of every object of a submission."""
    return {
        "name": submission.name,
        "namespace": profile.namespace,
        "labels": {**profile.pods.labels, **labels(submission)},
        "annotations": {**profile.pods.annotations, RUN: submission.job.name},
    }


def pod_metadata(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """The metadata of the pods: without a sidecar, which would outlive the job."""
    of_object = metadata(submission, profile)
    notes = {**of_object["annotations"], "sidecar.istio.io/inject": "false"}
    labelled = {**of_object["labels"], **group_label(submission.name, profile)}
    return {"labels": labelled, "annotations": notes}


def template(
    submission: Submission, profile: KubernetesProfile, container: str, **more: Any
) -> dict[str, Any]:
    """A pod template whose container is called `container`; `more` are fields of the pod."""
    return {
        "metadata": pod_metadata(submission, profile),
        "spec": {
            **placement(profile),
            **pod_fields(profile),
            **scheduler(profile),
            **together(submission, profile),
            **({"priorityClassName": profile.priority_class} if profile.priority_class else {}),
            "automountServiceAccountToken": profile.service_account is not None,
            "enableServiceLinks": False,
            **more,
            "containers": [
                {
                    "name": container,
                    "image": profile.image,
                    **container_fields(profile),
                    "args": ["run"],
                    "env": environment(submission, profile),
                    **(
                        {"envFrom": [{"secretRef": {"name": profile.secret}}]}
                        if profile.secret
                        else {}
                    ),
                    "resources": resources(profile),
                    "securityContext": container_security(profile.pods.ipc_lock),
                    "volumeMounts": mounts(profile),
                }
            ],
        },
    }


def placement(profile: KubernetesProfile) -> dict[str, Any]:
    """The fields of a pod that a TrainJob may patch too: where it runs, as whom, with what."""
    optional = {
        "serviceAccountName": profile.service_account,
        "imagePullSecrets": [{"name": name} for name in profile.image_pull_secrets],
        "nodeSelector": profile.node_selector,
        "tolerations": [*map(_toleration, profile.tolerations), *_gpu_taint(profile)],
    }
    return {
        **{key: value for key, value in optional.items() if value},
        "terminationGracePeriodSeconds": profile.grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 100,
            "fsGroup": 100,
            "fsGroupChangePolicy": profile.pods.fs_group_change,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _toleration(toleration: Toleration) -> dict[str, Any]:
    return toleration.model_dump(exclude_none=True)


def _gpu_taint(profile: KubernetesProfile) -> list[dict[str, Any]]:
    taint = {"key": profile.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
    return [taint] if profile.gpus else []


def volumes(submission: Submission, profile: KubernetesProfile) -> list[dict[str, Any]]:
    """The pod's volumes: its spec, /dev/shm (64 MB without), scratch, and the data."""
    return [
        {"name": "spec", "configMap": {"name": submission.name}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": mega(profile.shm_gb)}},
        scratch_volume(profile, mega(profile.scratch_gb)),
        tmp_volume(profile),
        *data_volumes(profile),
    ]


def tmp_volume(profile: KubernetesProfile) -> dict[str, Any]:
    """/tmp on the node's disk."""
    limit = profile.pods.tmp_gb
    return {"name": "tmp", "emptyDir": {} if limit is None else {"sizeLimit": mega(limit)}}


def together(submission: Submission, profile: KubernetesProfile) -> dict[str, Any]:
    """All pods of a submission where nodes share `pods.together_by`."""
    return affinity(profile, {INSTANCE: submission.name})


def data_volumes(profile: KubernetesProfile) -> list[dict[str, Any]]:
    """The file systems of the profile."""
    return [
        {"name": f"data-{number}", **_source(volume)}
        for number, volume in enumerate(profile.volumes)
    ]


def _source(volume: PodVolume) -> dict[str, Any]:
    if volume.claim:
        claim = {"claimName": volume.claim, "readOnly": volume.read_only}
        return {"persistentVolumeClaim": claim}
    nfs = {"server": volume.nfs_server, "path": volume.nfs_path, "readOnly": volume.read_only}
    return {"nfs": nfs}


def mounts(profile: KubernetesProfile) -> list[dict[str, Any]]:
    """The paths of the volumes in the container."""
    return [
        {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": "/cache"},
        {"name": "tmp", "mountPath": "/tmp"},
        *data_mounts(profile),
    ]


def data_mounts(profile: KubernetesProfile) -> list[dict[str, Any]]:
    """The paths of the profile's file systems in the container."""
    return [
        {"name": f"data-{number}", "mountPath": volume.mount_path, "readOnly": volume.read_only}
        for number, volume in enumerate(profile.volumes)
    ]


def container_security(ipc_lock: bool = False) -> dict[str, Any]:
    """Without rights that training does not need; RDMA locks memory."""
    more = {"add": ["IPC_LOCK"]} if ipc_lock else {}
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **more},
    }


def resources(profile: KubernetesProfile) -> dict[str, Any]:
    """Memory and GPUs are fixed, cores are the guaranteed ones."""
    fixed = {"memory": mega(profile.memory_gb)}
    if profile.gpus:
        fixed[profile.gpu_resource] = str(profile.gpus)
    fixed |= {name: str(amount) for name, amount in profile.pods.resources.items()}
    cores = f"{round(profile.cpu * 1000)}m"
    disk, limit = {"ephemeral-storage": mega(profile.scratch_gb)}, {}
    if profile.pods.ephemeral_gb is not None:
        limit = {"ephemeral-storage": mega(profile.pods.ephemeral_gb)}
    if profile.pods.cache_claim:
        disk = limit  # /cache is not on the node
    return {"limits": {**limit, **fixed}, "requests": {"cpu": cores, **disk, **fixed}}


def processes(profile: KubernetesProfile) -> int:
    """Ranks of a pod."""
    return max(1, profile.gpus)


def environment(
    submission: Submission, profile: KubernetesProfile, **more: str
) -> list[dict[str, Any]]:
    """The container's variables. Kubernetes expands `$(NAME)` in values and reads `$$` as `$`."""
    plain = submission.environment(profile, profile.grace_s)
    plain |= {"SEGADAPT_SPEC": f"{SPEC_FOLDER}/{SPEC_FILE}", **more}
    if not profile.gpus:
        # the image requests all GPUs, and some nodes grant them
        plain["NVIDIA_VISIBLE_DEVICES"] = "void"
    return [{"name": name, "value": text.replace("$", "$$")} for name, text in plain.items()]


def secret_environment(submission: Submission, profile: KubernetesProfile) -> list[dict[str, Any]]:
    """Variables from the Secret one by one, for a TrainJob, which cannot take it whole.

    Those that the job's stores name, and those that any job may need, where the Secret has them.
    """
    if profile.secret is None:
        return []
    named: list[str | None] = [*SECRET_VARIABLES]
    for store in submission.job.stores.values():
        named += [store.access_key_env, store.secret_key_env, store.session_token_env]
    reference = {"name": profile.secret, "optional": True}
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {**reference, "key": name}}}
        for name in sorted({*filter(None, named)} - profile.environment.keys())
    ]


def mega(size_gb: float) -> str:
    """A size as Kubernetes reads it."""
    return f"{round(size_gb * 1000)}M"
