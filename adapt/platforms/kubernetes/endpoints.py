"""The endpoints of a namespace: Deployments that serve a model, with what they own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapt.errors import JobError
from adapt.platforms.endpoint import EndpointState, EndpointStatus
from adapt.platforms.kubernetes.api import ApiServer, connect_api
from adapt.platforms.kubernetes.client import create_all
from adapt.platforms.kubernetes.endpoint_request import COMPONENT, url_of
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.kinds import KINDS, path_of
from adapt.platforms.kubernetes.logs import follow_logs, read_logs
from adapt.platforms.kubernetes.pod import INSTANCE, MANAGED_BY
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.refusals import ServerRefused
from adapt.platforms.platform import Request

_SELECTOR = ",".join(
    f"{key}={value}" for key, value in {MANAGED_BY: "segadapt", **COMPONENT}.items()
)
_LOG_KIND = KINDS["indexed_job"]
"""Its pods have one container too, of the same name."""
_HOPELESS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff",
             "CreateContainerConfigError", "CreateContainerError", "RunContainerError")  # fmt: skip


def connect_endpoints(
    profile: KubernetesProfile, environment: Mapping[str, str]
) -> "KubernetesEndpoints":
    """A client for a profile's cluster. Raises `JobError` without a library or a kubeconfig."""
    return KubernetesEndpoints(profile, connect_api(profile, environment))


class KubernetesEndpoints:
    """`adapt.platforms.endpoint.EndpointClient` of one namespace."""

    def __init__(self, profile: KubernetesProfile, api: ApiServer) -> None:
        self._namespace, self._api = profile.namespace, api

    def deploy(self, request: Request) -> str:
        """Create the Deployment and its Service, or nothing; the Deployment owns the others."""
        try:
            made = create_all(self._api, request["items"], owner="Deployment")
        except ServerRefused as error:
            if error.code != 409:
                raise
            name = request["items"][0]["metadata"]["name"]
            raise JobError(
                f"name: expected a free name in {self._namespace}, got {name!r}",
                f"choose another --name, or remove the endpoint: segadapt undeploy {name}",
            ) from error
        return str(made["metadata"]["name"])

    def status(self, endpoint: str) -> EndpointStatus:
        """The status of an endpoint, by its Deployment and pods."""
        return status_of(self._deployment(endpoint), self._pods(endpoint))

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        """The lines of all its pods."""
        self._deployment(endpoint)
        if not follow:
            return read_logs(self._api, _LOG_KIND, self._pods(endpoint))
        return follow_logs(self._api, _LOG_KIND, lambda: self._look(endpoint))

    def complete(self, _request: Request) -> None:
        """Nothing waits until an endpoint is ready."""

    def undeploy(self, endpoint: str) -> None:
        """Delete the Deployment, and so what it owns; its pods get SIGTERM and their grace."""
        self._deployment(endpoint)
        self._api.delete(self._path(endpoint))

    def endpoints(self) -> Iterator[EndpointStatus]:
        """The endpoints of the namespace, the newest first."""
        found = self._api.get(self._path(), labelSelector=_SELECTOR)["items"]
        found.sort(key=lambda one: str(one["metadata"].get("creationTimestamp")), reverse=True)
        for one in found:
            yield status_of(one, self._pods(one["metadata"]["name"]))

    def _look(self, endpoint: str) -> tuple[bool, Sequence[Manifest]]:
        pods = self._pods(endpoint)
        try:
            self._api.get(self._path(endpoint))
        except ServerRefused as error:
            if error.code != 404:
                raise
            return True, pods
        return False, pods

    def _deployment(self, name: str) -> Manifest:
        found: Manifest | None = None
        try:
            found = self._api.get(self._path(name))
        except ServerRefused as error:
            if error.code != 404:
                raise
        labels = {} if found is None else found["metadata"].get("labels") or {}
        if found is None or labels.get(MANAGED_BY) != "segadapt":
            other = "none" if found is None else "another Deployment"
            raise JobError(
                f"NAME: expected an endpoint in {self._namespace}, got {other}, {name!r}",
                "take a name from `endpoints --to PROFILE`",
            )
        return found

    def _pods(self, name: str) -> Sequence[Manifest]:
        selector = f"{INSTANCE}={name},app.kubernetes.io/component=endpoint"
        path = path_of("v1", self._namespace, "pods")
        pods: Sequence[Manifest] = self._api.get(path, labelSelector=selector)["items"]
        return pods

    def _path(self, name: str = "") -> str:
        return path_of("apps/v1", self._namespace, "deployments", name)


def status_of(deployment: Manifest, pods: Sequence[Manifest]) -> EndpointStatus:
    """The status of the endpoint of a Deployment and its pods."""
    place, status = deployment["metadata"], deployment.get("status") or {}
    name, url = place["name"], url_of(place["name"], place["namespace"])
    wanted = deployment["spec"].get("replicas", 1)
    ready = int(status.get("readyReplicas") or 0)
    trouble = next(filter(None, map(_trouble, pods)), "")
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
    waiting = "" if ready else next(filter(None, map(_unscheduled, pods)), "")
    detail = "; ".join(filter(None, (counted, trouble or waiting, *late)))
    return EndpointStatus(name, state, url, detail)


def _trouble(pod: Manifest) -> str:
    """Why a container does not start or does not stay."""
    for one in pod["status"].get("containerStatuses") or ():
        waiting: dict[str, Any] = one["state"].get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            ended = (one.get("lastState") or {}).get("terminated") or {}
            code = f" (exit code {ended['exitCode']})" if ended else ""
            said = ended.get("message") or waiting.get("message") or ""
            return f"{waiting['reason']}{code}: {' '.join(str(said).split())}".rstrip(": ")
    return ""


def _unscheduled(pod: Manifest) -> str:
    for one in pod["status"].get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("message", ""))
    return ""
