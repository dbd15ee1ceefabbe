"""An endpoint as a Deployment with its Service, and a HorizontalPodAutoscaler where it grows; needs
nothing installed."""

from collections.abc import Sequence

from adapt.platforms.endpoint import PORT, Deployment, EndpointState, EndpointStatus
from adapt.platforms.kubernetes.endpoint_pod import (
    STARTUP_S,
    labels,
    metadata,
    pod_spec,
    selector,
    surge,
)
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.pod_trouble import trouble_of, unscheduled
from adapt.platforms.kubernetes.profile import KubernetesProfile

CONTAINER = "main"


def manifests(deployment: Deployment, profile: KubernetesProfile) -> list[Manifest]:
    """The Service, the Deployment and, with `max_replicas`, its autoscaler."""
    items = [_service(deployment, profile), _deployment(deployment, profile)]
    if profile.serve.max_replicas is not None:
        items.append(_autoscaler(deployment, profile))
    return items


def reach(deployment: Deployment, profile: KubernetesProfile) -> str:
    """The networks that reach the Service."""
    return f"pods of the cluster alone ({url_of(deployment.name, profile.namespace)})"


def url_of(name: str, namespace: str) -> str:
    """The address of an endpoint for the pods of the cluster."""
    return f"http://{name}.{namespace}.svc:{PORT}"


def _service(deployment: Deployment, profile: KubernetesProfile) -> Manifest:
    port = {"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(deployment, profile),
        "spec": {"type": "ClusterIP", "selector": selector(deployment), "ports": [port]},
    }


def _deployment(deployment: Deployment, profile: KubernetesProfile) -> Manifest:
    """Without `replicas` where an autoscaler sets them."""
    fixed = profile.serve.max_replicas is None
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(deployment, profile),
        "spec": {
            **({"replicas": profile.serve.replicas} if fixed else {}),
            "selector": {"matchLabels": selector(deployment)},
            "strategy": surge(profile),
            "progressDeadlineSeconds": STARTUP_S,
            "template": {
                "metadata": {"labels": labels(deployment)},
                "spec": pod_spec(deployment, profile, CONTAINER),
            },
        },
    }


def _autoscaler(deployment: Deployment, profile: KubernetesProfile) -> Manifest:
    """By the share of the guaranteed cores that the pods use."""
    utilization = {"type": "Utilization", "averageUtilization": profile.serve.cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(deployment, profile),
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


def status_of(deployment: Manifest, pods: Sequence[Manifest]) -> EndpointStatus:
    """The status of the endpoint of a Deployment and its pods."""
    place, status = deployment["metadata"], deployment.get("status") or {}
    name, url = place["name"], url_of(place["name"], place["namespace"])
    wanted = deployment["spec"].get("replicas", 1)
    ready = int(status.get("readyReplicas") or 0)
    trouble = next(filter(None, map(trouble_of, pods)), "")
    late = [
        str(one.get("message", ""))
        for one in status.get("conditions") or ()
        if one["type"] == "Progressing" and one["status"] == "False"
    ]
    state: EndpointState = "starting"
    if ready:
        state = "ready"
    elif wanted == 0:
        state = "stopped"
    elif trouble or late:
        state = "failed"
    counted = "" if ready == wanted else f"{ready} of {wanted} replicas are ready"
    waiting = "" if ready else next(filter(None, map(unscheduled, pods)), "")
    detail = "; ".join(filter(None, (counted, trouble or waiting, *late)))
    return EndpointStatus(name, state, url, detail)
