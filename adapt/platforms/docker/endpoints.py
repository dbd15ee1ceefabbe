"""The endpoints of a Docker engine: containers that serve a model. Only containers with SegAdapt's
label are read or changed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.docker.endpoint_request import ENDPOINT_LABEL, URL_LABEL
from adapt.platforms.docker.engine import open_engine, start_container, with_secrets
from adapt.platforms.docker.errors import answers_of
from adapt.platforms.docker.logs import ContainerLog
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.endpoint import EndpointStatus
from adapt.platforms.platform import Request

POLL_S = 1.0
_MEANINGS = {1: "a bug", 2: "model or settings", 3: "storage", 4: "a damaged model", 137: "killed"}


def connect_endpoints(profile: DockerProfile, environment: Mapping[str, str]) -> "DockerEndpoints":
    """A client for the endpoints of an engine; see `open_engine`."""
    return DockerEndpoints(*open_engine(profile.engine_uri, environment), environment)


class DockerEndpoints:
    """`adapt.platforms.endpoint.EndpointClient` of one engine."""

    def __init__(self, engine: Any, where: str, environment: Mapping[str, str]) -> None:
        self._engine, self._where, self._environment = engine, where, environment

    def deploy(self, request: Request) -> str:
        """Create and start the container; its name."""
        from docker.errors import NotFound

        name, body = str(request["name"]), with_secrets(request, self._environment)
        with answers_of(self._where):
            try:
                self._engine.containers.get(name)
            except NotFound:
                start_container(self._engine, body, name)
                return name
        raise JobError(
            f"name: expected a free name, got {name!r}, which a container of this engine has",
            f"choose another --name, or remove the endpoint: segadapt undeploy {name}",
        )

    def status(self, endpoint: str) -> EndpointStatus:
        """The status of an endpoint, by its container's health."""
        return status_of(endpoint, self._container(endpoint).attrs)

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        """The lines of its log, stdout and stderr as they came."""
        log = ContainerLog(self._container(endpoint), self._where)
        if not follow:
            return log.new_lines(is_last=True)
        return following.follow(
            log.new_lines, lambda: self.status(endpoint).state == "stopped", POLL_S, settle_polls=1
        )

    def complete(self, _request: Request) -> None:
        """Nothing waits until an endpoint is ready."""

    def undeploy(self, endpoint: str) -> None:
        """Stop the container, which finishes what is in flight within the grace, and remove it."""
        container = self._container(endpoint)
        with answers_of(self._where):
            container.stop(timeout=container.attrs["Config"].get("StopTimeout"))
            container.remove(v=True, force=True)

    def endpoints(self) -> Iterable[EndpointStatus]:
        """Every container with the label of endpoints, the newest first."""
        with answers_of(self._where):
            found = self._engine.containers.list(
                all=True, filters={"label": ENDPOINT_LABEL}, ignore_removed=True
            )
        found.sort(key=lambda container: container.attrs["Created"], reverse=True)
        return [status_of(container.name, container.attrs) for container in found]

    def _container(self, endpoint: str) -> Any:
        from docker.errors import NotFound

        with answers_of(self._where):
            try:
                container = self._engine.containers.get(endpoint)
            except NotFound:
                container = None
        if container is None or ENDPOINT_LABEL not in container.labels:
            other = "none" if container is None else "another container"
            raise JobError(
                f"NAME: expected an endpoint of this engine, got {other}, {endpoint!r}",
                "take a name from `endpoints --to PROFILE`",
            )
        return container


def status_of(endpoint: str, attributes: Mapping[str, Any]) -> EndpointStatus:
    """The status of the endpoint of a container that `docker inspect` describes so."""
    state = attributes["State"]
    status, health = state["Status"], state.get("Health") or {}
    url = str(attributes["Config"]["Labels"].get(URL_LABEL, ""))
    code = int(state.get("ExitCode", 0))
    ended = f"ended with {code} ({_MEANINGS.get(code, 'see docs/reliability.md')})"
    if status == "created":
        return EndpointStatus(endpoint, "starting", url, "created, not started")
    if status == "running" and health.get("Status") == "healthy":
        return EndpointStatus(endpoint, "ready", url)
    if status == "running" and health.get("Status") == "unhealthy":
        return EndpointStatus(endpoint, "failed", url, f"unhealthy: {_last(health)}")
    if status == "restarting" or (status == "running" and attributes.get("RestartCount")):
        times = attributes.get("RestartCount", 0)
        return EndpointStatus(endpoint, "failed", url, f"started again {times} times: {ended}")
    if status == "running":
        return EndpointStatus(endpoint, "starting", url, "loading the model")
    if code or state.get("OOMKilled"):
        why = f"out of memory ({code})" if state.get("OOMKilled") else ended
        return EndpointStatus(endpoint, "failed", url, str(state.get("Error") or why))
    return EndpointStatus(endpoint, "stopped", url, str(status))


def _last(health: Mapping[str, Any]) -> str:
    """The last line of the last health check."""
    output = str((health.get("Log") or [{}])[-1].get("Output", "")).strip()
    return output.rpartition("\n")[2]
