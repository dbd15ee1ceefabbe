"""The manifests of an endpoint: a Service and a Deployment, with a HorizontalPodAutoscaler where it
grows; a `List`, which `kubectl apply -f` takes as well."""

from typing import Any

from adapt.errors import JobError
from adapt.platforms.endpoint import LIVE, PORT, READY, TOKEN, Deployment
from adapt.platforms.kubernetes.jobs import Manifest
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
from adapt.platforms.platform import Request

COMPONENT = {"app.kubernetes.io/component": "endpoint"}
MODEL_NOTE = "segadapt/model"
STARTUP_S, PROBE_S = 1800, 10
"""Longest that a model may load, and the seconds between two probes."""


def endpoint_request(deployment: Deployment, profile: KubernetesProfile) -> Request:
    """The manifests. Raises `JobError` for a path that no volume of the profile has."""
    if deployment.is_path and profile.outside(deployment.model) is None:
        raise JobError(
            "MODEL: expected the URI of a store or a path below a mount of `volumes` in the "
            f"profile, got {deployment.model!r}",
            "copy the folder into a store and name its URI",
        )
    items = [_service(deployment, profile), _deployment(deployment, profile)]
    if profile.serve.max_replicas is not None:
        items.append(_autoscaler(deployment, profile))
    return {"apiVersion": "v1", "kind": "List", "items": items}


def url_of(name: str, namespace: str) -> str:
    """The address of an endpoint for the pods of the cluster."""
    return f"http://{name}.{namespace}.svc:{PORT}"


def reach(deployment: Deployment, profile: KubernetesProfile) -> str:
    """The networks that reach the Service."""
    return f"pods of the cluster alone ({url_of(deployment.name, profile.namespace)})"


def access(profile: KubernetesProfile) -> str:
    """The token that a request has to state, if any."""
    secret = profile.serve.token_secret
    return f"the token in {TOKEN} of Secret {secret}" if secret else "open: no token is asked for"


def _metadata(deployment: Deployment, profile: KubernetesProfile) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "namespace": profile.namespace,
        "labels": _labels(deployment),
        "annotations": {MODEL_NOTE: deployment.model},
    }


def _labels(deployment: Deployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "segadapt",
        INSTANCE: deployment.name,
        MANAGED_BY: "segadapt",
        **COMPONENT,
    }


def _selector(deployment: Deployment) -> dict[str, str]:
    return {INSTANCE: deployment.name, **COMPONENT}


def _service(deployment: Deployment, profile: KubernetesProfile) -> Manifest:
    port = {"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(deployment, profile),
        "spec": {"type": "ClusterIP", "selector": _selector(deployment), "ports": [port]},
    }


def _deployment(deployment: Deployment, profile: KubernetesProfile) -> Manifest:
    """Without `replicas` where an autoscaler sets them. A new pod is ready before an old one ends;
    with GPUs, which may all be in use, an old one ends first."""
    surge = {"maxSurge": 0, "maxUnavailable": 1} if profile.gpus else {"maxUnavailable": 0}
    fixed = profile.serve.max_replicas is None
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(deployment, profile),
        "spec": {
            **({"replicas": profile.serve.replicas} if fixed else {}),
            "selector": {"matchLabels": _selector(deployment)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
            "progressDeadlineSeconds": STARTUP_S,
            "template": _template(deployment, profile),
        },
    }


def _template(deployment: Deployment, profile: KubernetesProfile) -> dict[str, Any]:
    priority = {"priorityClassName": profile.priority_class} if profile.priority_class else {}
    shm = {"medium": "Memory", "sizeLimit": mega(profile.shm_gb)}
    return {
        "metadata": {"labels": _labels(deployment)},
        "spec": {
            **placement(profile),
            **priority,
            "automountServiceAccountToken": profile.service_account is not None,
            "enableServiceLinks": False,
            "containers": [_container(deployment, profile)],
            "volumes": [
                {"name": "shm", "emptyDir": shm},
                {"name": "tmp", "emptyDir": {"sizeLimit": mega(profile.scratch_gb)}},
                *data_volumes(profile),
            ],
        },
    }


def _container(deployment: Deployment, profile: KubernetesProfile) -> dict[str, Any]:
    """Ready when the model is warm; started again when the process does not answer."""
    source = {"envFrom": [{"secretRef": {"name": profile.secret}}]} if profile.secret else {}
    mounts = [{**mount, "readOnly": True} for mount in data_mounts(profile)]
    return {
        "name": "main",
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


def _autoscaler(deployment: Deployment, profile: KubernetesProfile) -> Manifest:
    """By the share of the guaranteed cores that the pods use."""
    utilization = {"type": "Utilization", "averageUtilization": profile.serve.cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(deployment, profile),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": deployment.name,
            },
            "minReplicas": profile.serve.replicas,
            "maxReplicas": profile.serve.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
        },
    }
