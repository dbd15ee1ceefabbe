"""The endpoints of a namespace: objects of one kind that serve a model, with what they own."""

from collections.abc import Iterator, Mapping, Sequence

from adapt.errors import JobError
from adapt.platforms.endpoint import EndpointStatus
from adapt.platforms.kubernetes.api import ApiServer, connect_api
from adapt.platforms.kubernetes.client import create_all
from adapt.platforms.kubernetes.endpoint_kinds import ENDPOINT_KINDS
from adapt.platforms.kubernetes.endpoint_pod import COMPONENT
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.kinds import KINDS, path_of
from adapt.platforms.kubernetes.logs import follow_logs, read_logs
from adapt.platforms.kubernetes.pod import MANAGED_BY
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.refusals import ServerRefused
from adapt.platforms.platform import Request


def connect_endpoints(
    profile: KubernetesProfile, environment: Mapping[str, str]
) -> "KubernetesEndpoints":
    """A client for a profile's cluster. Raises `JobError` without a library or a kubeconfig."""
    return KubernetesEndpoints(profile, connect_api(profile, environment))


class KubernetesEndpoints:
    """`adapt.platforms.endpoint.EndpointClient` of one namespace."""

    def __init__(self, profile: KubernetesProfile, api: ApiServer) -> None:
        self._namespace, self._api = profile.namespace, api
        self._kind = ENDPOINT_KINDS[profile.serve.kind]
        self._log_kind = KINDS["indexed_job"]._replace(container=self._kind.container)

    def deploy(self, request: Request) -> str:
        """Create all its objects, or nothing; the one of the endpoint's kind owns the others."""
        try:
            made = create_all(self._api, request["items"], owner=self._kind.kind)
        except ServerRefused as error:
            if error.code == 404 and "no matches" in error.problem:
                raise JobError(
                    f"serve.{error.problem}",
                    "have KServe 0.16 or later installed, or take `serve.kind: deployment`",
                ) from error
            if error.code != 409:
                raise
            name = request["items"][0]["metadata"]["name"]
            raise JobError(
                f"name: expected a free name in {self._namespace}, got {name!r}",
                f"choose another --name, or remove the endpoint: segadapt undeploy {name}",
            ) from error
        return str(made["metadata"]["name"])

    def status(self, endpoint: str) -> EndpointStatus:
        """The status of an endpoint, by its object and pods."""
        return self._kind.status(self._object(endpoint), self._pods(endpoint))

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        """The lines of all its pods, those of several with `[POD]` before them."""
        self._object(endpoint)
        if not follow:
            return read_logs(self._api, self._log_kind, self._pods(endpoint), named=True)
        return follow_logs(self._api, self._log_kind, lambda: self._look(endpoint), named=True)

    def complete(self, _request: Request) -> None:
        """Nothing waits until an endpoint is ready."""

    def undeploy(self, endpoint: str) -> None:
        """Delete its object, and so what that owns; its pods get SIGTERM and their grace."""
        self._object(endpoint)
        self._api.delete(self._path(endpoint))

    def endpoints(self) -> Iterator[EndpointStatus]:
        """The endpoints of the namespace, the newest first."""
        ours = f"{MANAGED_BY}=segadapt,{COMPONENT}={self._kind.part}"
        found = self._api.get(self._path(), labelSelector=ours)["items"]
        found.sort(key=lambda one: str(one["metadata"].get("creationTimestamp")), reverse=True)
        for one in found:
            yield self._kind.status(one, self._pods(one["metadata"]["name"]))

    def _look(self, endpoint: str) -> tuple[bool, Sequence[Manifest]]:
        pods = self._pods(endpoint)
        try:
            self._api.get(self._path(endpoint))
        except ServerRefused as error:
            if error.code != 404:
                raise
            return True, pods
        return False, pods

    def _object(self, name: str) -> Manifest:
        found: Manifest | None = None
        try:
            found = self._api.get(self._path(name))
        except ServerRefused as error:
            if error.code != 404:
                raise
        labels = {} if found is None else found["metadata"].get("labels") or {}
        if found is None or labels.get(MANAGED_BY) != "segadapt":
            other = "none" if found is None else f"another {self._kind.kind}"
            raise JobError(
                f"NAME: expected an endpoint in {self._namespace}, got {other}, {name!r}",
                "take a name from `endpoints --to PROFILE`",
            )
        return found

    def _pods(self, name: str) -> Sequence[Manifest]:
        selector = self._kind.pods.format(name=name)
        path = path_of("v1", self._namespace, "pods")
        pods: Sequence[Manifest] = self._api.get(path, labelSelector=selector)["items"]
        return pods

    def _path(self, name: str = "") -> str:
        return path_of(self._kind.api_version, self._namespace, self._kind.plural, name)
