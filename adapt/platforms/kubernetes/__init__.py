"""Kubernetes clusters: Indexed Jobs, JobSets, Kubeflow's TrainJobs and PyTorchJobs, Volcano.

`profile`, `manifests` (the pure request, with `pod` and `kinds`), and `client` (with `api`,
`refusals`, `job_status`, `logs`, `checks`), which talks to the API server.
"""

from collections.abc import Mapping

from adapt.platforms.endpoint import Serving
from adapt.platforms.kubernetes.api import connect_api
from adapt.platforms.kubernetes.client import KubernetesClient
from adapt.platforms.kubernetes.endpoint_request import access, endpoint_request, reach
from adapt.platforms.kubernetes.endpoints import connect_endpoints
from adapt.platforms.kubernetes.kinds import KINDS
from adapt.platforms.kubernetes.manifests import request
from adapt.platforms.kubernetes.prediction import prediction_requests
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.platform import Platform

__all__ = ["KUBERNETES", "KubernetesClient", "KubernetesProfile", "connect", "request"]


def connect(profile: KubernetesProfile, environment: Mapping[str, str]) -> KubernetesClient:
    """A client for a profile's cluster. Raises `JobError` without a library or a kubeconfig."""
    return KubernetesClient(profile, connect_api(profile, environment))


def _grace_s(profile: KubernetesProfile) -> float:
    return profile.grace_s


def _restarts(profile: KubernetesProfile) -> bool:
    return KINDS[profile.kind].restarts and profile.retries > 0


KUBERNETES = Platform(
    KubernetesProfile,
    request,
    connect,
    _grace_s,
    _restarts,
    prediction_requests,
    Serving(
        request=endpoint_request,
        connect=connect_endpoints,
        replicas=lambda profile: profile.serve.bounds,
        reach=reach,
        access=access,
    ),
)
