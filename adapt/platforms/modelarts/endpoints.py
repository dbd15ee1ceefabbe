"""The real-time services of a project. Only services with SegAdapt's tag are read or changed.

ModelArts' API knows services by an id; their names are free of doubles, so a name is an endpoint.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.endpoint import EndpointState, EndpointStatus
from adapt.platforms.modelarts.endpoint_request import TAG
from adapt.platforms.modelarts.errors import NotThere
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.modelarts.service_logs import ServiceLog
from adapt.platforms.modelarts.services import ServicesApi
from adapt.platforms.platform import Request
from storage.errors import StoreUnavailable

POLL_S = 5.0
_URLS = ("PUBLIC", "INTERNAL", "CONSOLE")
"""The kinds of a service's addresses, the first that it has counts."""

_STATES: dict[str, EndpointState] = {
    "INIT": "starting",
    "DEPLOYING": "starting",
    "RUNNING": "ready",
    "UPGRADING": "ready",
    "CONCERNING": "ready",
    "FAILED": "failed",
    "ERROR": "failed",
    "STOPPING": "stopped",
    "STOPPED": "stopped",
    "DELETING": "stopped",
}


def connect_endpoints(
    profile: ModelArtsProfile, environment: Mapping[str, str]
) -> "ModelArtsEndpoints":
    """A client with the keys in `environment`. Nothing is sent yet.

    Raises `JobError` where a variable or the SDK is missing.
    """
    return ModelArtsEndpoints(ServicesApi(profile, environment), profile.region)


class ModelArtsEndpoints:
    """`adapt.platforms.endpoint.EndpointClient` of one project."""

    def __init__(self, api: ServicesApi, region: str) -> None:
        self.api, self._region = api, region

    def deploy(self, request: Request) -> str:
        """Create the service."""
        name = str(request["name"])
        if any(one["name"] == name for one in self.api.services(name=name)):
            raise JobError(
                f"name: expected a free name in {self._region}, got {name!r}",
                f"choose another --name, or remove the endpoint: segadapt undeploy {name}",
            )
        try:
            self.api.make(request)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{name}: its creation is not confirmed: {error.problem}",
                "check `endpoints --to PROFILE` before you deploy it again",
            ) from error
        return name

    def status(self, endpoint: str) -> EndpointStatus:
        """The status of an endpoint."""
        return status_of(self.api.described(self._id(endpoint)))

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        """The service's events, and the lines of its containers; with `follow` until the endpoint
        is gone."""
        service = self._id(endpoint)
        log = ServiceLog(self.api, service)
        if not follow:
            return log.new_lines(True)
        return following.follow(log.new_lines, lambda: self._is_gone(service), POLL_S)

    def complete(self, _request: Request) -> None:
        """Nothing waits until an endpoint is ready."""

    def undeploy(self, endpoint: str) -> None:
        """Delete the service: its containers get SIGTERM and their grace."""
        self.api.remove(self._id(endpoint))

    def endpoints(self) -> Iterator[EndpointStatus]:
        """The services with our tag, the newest first, without their addresses."""
        for found in self.api.services(tags=f"{TAG['key']}|{TAG['value']}"):
            yield status_of(found)

    def _id(self, name: str) -> str:
        """The id of an endpoint of ours. Raises `JobError`."""
        found = [one for one in self.api.services(name=name) if one["name"] == name]
        if not found or TAG not in [_plain(tag) for tag in found[0].get("tags") or ()]:
            other = "another service" if found else "none"
            raise JobError(
                f"NAME: expected an endpoint of SegAdapt in {self._region}, got {other}, {name!r}",
                "take a name from `endpoints --to PROFILE`",
            )
        return str(found[0]["id"])

    def _is_gone(self, service: str) -> bool:
        try:
            found = self.api.described(service)
        except NotThere:
            return True
        return bool(found["status"] == "DELETING")


def _plain(tag: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": tag.get("key"), "value": tag.get("value")}


def status_of(found: Mapping[str, Any]) -> EndpointStatus:
    """ModelArts' description of a service -> its status."""
    status = str(found["status"])
    urls = {one.get("type"): one.get("urls") or [] for one in found.get("predict_url") or ()}
    url = next((urls[kind][0] for kind in _URLS if urls.get(kind)), "")
    shown = "" if status == "RUNNING" else status
    why = " ".join(str(found.get("failure_reason") or "").split())
    detail = "; ".join(filter(None, (shown, why)))
    return EndpointStatus(str(found["name"]), _STATES.get(status, "unknown"), str(url), detail)
