"""The Indexed Job that predicts a set: a pod for each slice, each started again by itself.

A slice that ends for good (bad files: 4) ends alone; Kubernetes 1.29 or later has that.
"""

from typing import Any

from adapt.errors import JobError
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.kinds import KINDS
from adapt.platforms.kubernetes.kueue import queued
from adapt.platforms.kubernetes.pod import (
    INSTANCE,
    MANAGED_BY,
    NEVER_AGAIN,
    RUN,
    container_security,
    data_mounts,
    data_volumes,
    mega,
    placement,
    resources,
    tmp_volume,
)
from adapt.platforms.kubernetes.pod_settings import (
    container_fields,
    pod_fields,
    scratch_volume,
)
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.platform import Request
from adapt.platforms.prediction import Sliced, check_one_gpu, check_uris


def prediction_requests(prediction: Sliced, profile: KubernetesProfile) -> dict[str, Request]:
    """The manifests of one job: all slices are its pods, which share the set out by their numbers;
    of one slice alone the only pod. Raises `JobError` for another kind of job, and for paths that
    no volume has."""
    if profile.kind != "indexed_job":
        raise JobError(
            f"kind: expected indexed_job for `{prediction.command} --to`, got {profile.kind}",
            "pass --set kind=indexed_job",
        )
    check_one_gpu(profile)
    read = [volume.mount_path for volume in profile.volumes]
    written = [volume.mount_path for volume in profile.volumes if not volume.read_only]
    check_uris(prediction, "volumes of the profile", read, written)
    whole = len(prediction.slices) == prediction.num_slices
    name = prediction.name if whole else prediction.name_of(prediction.slices[0])
    job = _job(name, prediction, profile, None if whole else prediction.slices[0])
    job = queued(job, KINDS["indexed_job"].suspend, profile)
    return {name: {"apiVersion": "v1", "kind": "List", "items": [job]}}


def _job(name: str, prediction: Sliced, profile: KubernetesProfile, number: int | None) -> Manifest:
    own = {"app.kubernetes.io/name": "segadapt", INSTANCE: name, MANAGED_BY: "segadapt"}
    labels = {**profile.pods.labels, **own}
    notes = {**profile.pods.annotations, RUN: prediction.name}
    never_again = {"containerName": "main", "operator": "In", "values": NEVER_AGAIN}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    deadline = profile.max_hours and {"activeDeadlineSeconds": round(3600 * profile.max_hours)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": profile.namespace,
            "labels": labels,
            "annotations": notes,
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": len(prediction.slices),
            "parallelism": len(prediction.slices),
            "backoffLimitPerIndex": profile.retries,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [disrupted]},
                    {"action": "FailIndex", "onExitCodes": never_again, "onPodConditions": []},
                ]
            },
            **(deadline or {}),
            "ttlSecondsAfterFinished": round(3600 * profile.keep_hours),
            "template": {
                "metadata": {
                    "labels": {**labels},
                    "annotations": {**notes, "sidecar.istio.io/inject": "false"},
                },
                "spec": _pod(prediction, profile, number),
            },
        },
    }


def _pod(prediction: Sliced, profile: KubernetesProfile, number: int | None) -> dict[str, Any]:
    priority = {"priorityClassName": profile.priority_class} if profile.priority_class else {}
    source = {"envFrom": [{"secretRef": {"name": profile.secret}}]} if profile.secret else {}
    container = {
        "name": "main",
        "image": profile.image,
        **container_fields(profile),
        # Kubernetes expands $(NAME) in arguments too
        "args": [word.replace("$", "$$") for word in prediction.arguments(number)],
        "env": _variables(prediction, profile),
        **source,
        "resources": resources(profile),
        "securityContext": container_security(profile.pods.ipc_lock),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "scratch", "mountPath": "/cache"},
            {"name": "tmp", "mountPath": "/tmp"},
            *data_mounts(profile),
        ],
    }
    return {
        **placement(profile),
        **pod_fields(profile),
        **priority,
        "automountServiceAccountToken": profile.service_account is not None,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": mega(profile.shm_gb)}},
            scratch_volume(profile, mega(profile.scratch_gb)),
            tmp_volume(profile),
            *data_volumes(profile),
        ],
    }


def _variables(prediction: Sliced, profile: KubernetesProfile) -> list[dict[str, str]]:
    """PET_NNODES is how a pod of an Indexed Job knows how many there are."""
    plain = prediction.environment(profile, profile.grace_s)
    plain |= {"PET_NNODES": str(len(prediction.slices))}
    plain |= prediction.spec_variable()
    return [{"name": name, "value": text.replace("$", "$$")} for name, text in plain.items()]
