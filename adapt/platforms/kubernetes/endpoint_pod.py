"""The pods of an endpoint, the same for every kind of endpoint: the image with `segadapt serve`."""

from typing import Any

from adapt.platforms.endpoint import LIVE, PORT, READY, TOKEN, Deployment
from adapt.platforms.kubernetes.pod import (
    INSTANCE,
    MANAGED_BY,
    container_security,
    data_mounts,
    data_volumes,
    mega,
    placement,
    resources,
)
from adapt.platforms.kubernetes.profile import KubernetesProfile

COMPONENT, PART = "app.kubernetes.io/component", "endpoint"
MODEL_NOTE = "segadapt/model"
STARTUP_S, PROBE_S = 1800, 10
"""Longest that a model may load, and the seconds between two probes."""


def metadata(deployment: Deployment, profile: KubernetesProfile) -> dict[str, Any]:
    """The metadata of every object of an endpoint."""
    return {
        "name": deployment.name,
        "namespace": profile.namespace,
        "labels": labels(deployment),
        "annotations": {MODEL_NOTE: deployment.model},
    }


def labels(deployment: Deployment) -> dict[str, str]:
    """The labels of every object of an endpoint."""
    return {
        "app.kubernetes.io/name": "segadapt",
        INSTANCE: deployment.name,
        MANAGED_BY: "segadapt",
        COMPONENT: PART,
    }


def selector(deployment: Deployment) -> dict[str, str]:
    """The labels by which its pods are found."""
    return {INSTANCE: deployment.name, COMPONENT: PART}


def surge(profile: KubernetesProfile) -> dict[str, Any]:
    """How pods are replaced: a new one is ready before an old one ends; with GPUs, which may all be
    in use, an old one ends first."""
    most = {"maxSurge": 0, "maxUnavailable": 1} if profile.gpus else {"maxUnavailable": 0}
    return {"type": "RollingUpdate", "rollingUpdate": most}


def pod_spec(deployment: Deployment, profile: KubernetesProfile, container: str) -> dict[str, Any]:
    """The spec of a pod whose container is called `container`."""
    priority = {"priorityClassName": profile.priority_class} if profile.priority_class else {}
    shm = {"medium": "Memory", "sizeLimit": mega(profile.shm_gb)}
    return {
        **placement(profile),
        **priority,
        "automountServiceAccountToken": profile.service_account is not None,
        "enableServiceLinks": False,
        "containers": [_container(deployment, profile, container)],
        "volumes": [
            {"name": "shm", "emptyDir": shm},
            {"name": "tmp", "emptyDir": {"sizeLimit": mega(profile.scratch_gb)}},
            *data_volumes(profile),
        ],
    }


def _container(deployment: Deployment, profile: KubernetesProfile, name: str) -> dict[str, Any]:
    """Ready when the model is warm; started again when the process does not answer."""
    source = {"envFrom": [{"secretRef": {"name": profile.secret}}]} if profile.secret else {}
    mounts = [{**mount, "readOnly": True} for mount in data_mounts(profile)]
    return {
        "name": name,
        "image": profile.image,
        "args": ["serve", "--port", str(PORT), *profile.serve.arguments],
        "env": _environment(deployment, profile),
        **source,
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": _probe(READY, STARTUP_S // PROBE_S),
        "readinessProbe": _probe(READY, 2),
        "livenessProbe": _probe(LIVE, 6),
        "resources": resources(profile),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
            *mounts,
        ],
    }


def _environment(deployment: Deployment, profile: KubernetesProfile) -> list[dict[str, Any]]:
    """Kubernetes expands `$(NAME)` in values and reads `$$` as `$`."""
    plain = deployment.environment(profile, deployment.model, profile.grace_s)
    plain |= deployment.store_settings()
    own: list[dict[str, Any]] = [
        {"name": name, "value": text.replace("$", "$$")} for name, text in plain.items()
    ]
    if profile.serve.token_secret is not None:
        reference = {"name": profile.serve.token_secret, "key": TOKEN}
        own.append({"name": TOKEN, "valueFrom": {"secretKeyRef": reference}})
    return own


def _probe(path: str, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": PROBE_S,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
