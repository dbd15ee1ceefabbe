"""The manifests of an endpoint: a `List`, which `kubectl apply -f` takes as well."""

from adapt.errors import JobError
from adapt.platforms.endpoint import TOKEN, Deployment
from adapt.platforms.kubernetes.endpoint_kinds import ENDPOINT_KINDS
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.platform import Request
from adapt.platforms.reachable import READ, expected_uri


def endpoint_request(deployment: Deployment, profile: KubernetesProfile) -> Request:
    """The manifests. Raises `JobError` for a path that no volume of the profile has."""
    folders = [volume.mount_path for volume in profile.volumes]
    expected = expected_uri(READ, folders, "volumes of the profile")
    if deployment.is_path and profile.outside(deployment.model) is None:
        raise JobError(
            f"MODEL: expected {expected}, got {deployment.model!r}",
            "copy the folder into a store and name its URI",
        )
    items = ENDPOINT_KINDS[profile.serve.kind].manifests(deployment, profile)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def reach(deployment: Deployment, profile: KubernetesProfile) -> str:
    """The networks that reach the endpoint."""
    return ENDPOINT_KINDS[profile.serve.kind].reach(deployment, profile)


def access(profile: KubernetesProfile) -> str:
    """The token that a request has to state, if any."""
    secret = profile.serve.token_secret
    return f"the token in {TOKEN} of Secret {secret}" if secret else "open: no token is asked for"
