"""An endpoint as an InferenceService of KServe 0.16 or later (`serving.kserve.io/v1beta1`): a
custom predictor, whose container speaks the v2 protocol.

The mode is KServe's `Standard`, a plain Deployment with its autoscaler: Knative's pods may have
neither volumes nor a security context of their own unless the cluster allows them.
"""

from collections.abc import Sequence
from typing import Any

from adapt.platforms.endpoint import Deployment, EndpointState, EndpointStatus
from adapt.platforms.kubernetes.endpoint_pod import COMPONENT, metadata, pod_spec, surge
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.pod_trouble import trouble_of, unscheduled
from adapt.platforms.kubernetes.profile import KubernetesProfile

CONTAINER = "kserve-container"
"""KServe's name for the container of a predictor."""

PART = "inferenceservice"
"""Value of the label COMPONENT: KServe gives its own Deployment the labels of ours, which must not
be found as an endpoint too."""

_BROKEN = ("BlockedByFailedLoad", "InvalidSpec")
_MODE = {
    "serving.kserve.io/deploymentMode": "Standard",
    "serving.kserve.io/autoscalerClass": "hpa",
}
_CLUSTER_LOCAL = {"networking.kserve.io/visibility": "cluster-local"}


def manifests(deployment: Deployment, profile: KubernetesProfile) -> list[Manifest]:
    """The InferenceService."""
    place = metadata(deployment, profile)
    place["annotations"] |= _MODE
    place["labels"] |= {COMPONENT: PART, **({} if profile.serve.gateway else _CLUSTER_LOCAL)}
    fewest, most = profile.serve.bounds
    predictor = {
        "minReplicas": fewest,
        "maxReplicas": most,
        "scaleMetric": "cpu",
        "scaleTarget": profile.serve.cpu_percent,
        "deploymentStrategy": surge(profile),
        **pod_spec(deployment, profile, CONTAINER),
    }
    return [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": place,
            "spec": {"predictor": predictor},
        }
    ]


def reach(_deployment: Deployment, profile: KubernetesProfile) -> str:
    """The networks that reach the predictor."""
    if profile.serve.gateway:
        return "all that reach KServe's gateway, at the URL that KServe gives it"
    return "pods of the cluster alone"


def status_of(service: Manifest, pods: Sequence[Manifest]) -> EndpointStatus:
    """The status of an InferenceService and its pods."""
    status: dict[str, Any] = service.get("status") or {}
    found = {one["type"]: one for one in status.get("conditions") or ()}
    state, broken = _state(found), _broken(found, status.get("modelStatus") or {})
    trouble = next(filter(None, map(trouble_of, pods)), "")
    if state == "starting" and (trouble or broken):
        state = "failed"
    waiting = next(filter(None, map(unscheduled, pods)), "") if state == "starting" else ""
    url = status.get("url") or (status.get("address") or {}).get("url") or ""
    detail = "; ".join(filter(None, (trouble or waiting, broken)))
    return EndpointStatus(service["metadata"]["name"], state, str(url), detail)


def _state(conditions: dict[str, Any]) -> EndpointState:
    states: dict[str, EndpointState] = {"Stopped": "stopped", "Ready": "ready"}
    for kind, state in states.items():
        if conditions.get(kind, {}).get("status") == "True":
            return state
    return "starting"


def _broken(conditions: dict[str, Any], model: dict[str, Any]) -> str:
    """A fault that does not end by waiting."""
    predictor = conditions.get("PredictorReady", {})
    if predictor.get("status") == "False" and predictor.get("reason") == "ProgressDeadlineExceeded":
        return str(predictor.get("message") or predictor["reason"])
    if model.get("transitionStatus") in _BROKEN:
        failure = model.get("lastFailureInfo") or {}
        return str(failure.get("message") or model["transitionStatus"])
    return ""
