"""The kinds of endpoint that a cluster may know, one row of ENDPOINT_KINDS each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from adapt.platforms.endpoint import Deployment, EndpointStatus
from adapt.platforms.kubernetes import endpoint_deployment, endpoint_kserve, endpoint_pod
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.serve import EndpointKindName


class EndpointKind(NamedTuple):
    """A row of ENDPOINT_KINDS: `plural` of `api_version` is the resource that owns all others.

    `part` is the value of its label COMPONENT. `pods` is the selector of its pods, with `{name}`;
    `container` is their container.
    """

    kind: str
    api_version: str
    plural: str
    part: str
    container: str
    pods: str
    manifests: Callable[[Deployment, KubernetesProfile], list[Manifest]]
    reach: Callable[[Deployment, KubernetesProfile], str]
    status: Callable[[Manifest, Sequence[Manifest]], EndpointStatus]


ENDPOINT_KINDS: dict[EndpointKindName, EndpointKind] = {
    "deployment": EndpointKind(
        kind="Deployment",
        api_version="apps/v1",
        plural="deployments",
        part=endpoint_pod.PART,
        container=endpoint_deployment.CONTAINER,
        pods="app.kubernetes.io/instance={name},app.kubernetes.io/component=endpoint",
        manifests=endpoint_deployment.manifests,
        reach=endpoint_deployment.reach,
        status=endpoint_deployment.status_of,
    ),
    "inferenceservice": EndpointKind(
        kind="InferenceService",
        api_version="serving.kserve.io/v1beta1",
        plural="inferenceservices",
        part=endpoint_kserve.PART,
        container=endpoint_kserve.CONTAINER,
        pods="serving.kserve.io/inferenceservice={name}",
        manifests=endpoint_kserve.manifests,
        reach=endpoint_kserve.reach,
        status=endpoint_kserve.status_of,
    ),
}
"""By the profile's `serve.kind`."""
