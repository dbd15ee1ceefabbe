"""The endpoints of an account and region: each has a model and a configuration of its own name.
Only endpoints with SegAdapt's tag are read or changed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.endpoint import EndpointState, EndpointStatus
from adapt.platforms.platform import Request
from adapt.platforms.sagemaker.api import AwsApis
from adapt.platforms.sagemaker.endpoint_request import (
    AUTOSCALED,
    SERVICES,
    TAG,
    target_of,
    url_of,
)
from adapt.platforms.sagemaker.errors import aws_errors
from adapt.platforms.sagemaker.logs import ENDPOINTS, CloudWatchLog
from adapt.platforms.sagemaker.profile import SageMakerProfile
from storage.errors import StoreUnavailable

POLL_S = 5.0
QUIET_POLLS = 2
"""Fetches without a new line before a log counts as complete: CloudWatch lags behind."""

DETAIL_CHARACTERS = 300
_AFTER_READY = ("RegisterScalableTarget", "PutScalingPolicy")
_NAMES = {"CreateModel": "ModelName", "CreateEndpointConfig": "EndpointConfigName",
          "CreateEndpoint": "EndpointName"}  # fmt: skip
_WORDS = {"CreateModel": "model", "CreateEndpointConfig": "configuration"}
_STATES: dict[str, EndpointState] = {
    "Creating": "starting",
    "InService": "ready",
    "Updating": "ready",
    "SystemUpdating": "ready",
    "RollingBack": "ready",
    "Deleting": "stopped",
    "Failed": "failed",
    "OutOfService": "failed",
    "UpdateRollbackFailed": "failed",
}


class SageMakerEndpoints(AwsApis):
    """`adapt.platforms.endpoint.EndpointClient` of one account and region."""

    def __init__(self, profile: SageMakerProfile, environment: Mapping[str, str]) -> None:
        super().__init__(profile, environment)
        self._region = profile.region

    def deploy(self, request: Request) -> str:
        """Create model, configuration and endpoint, or nothing."""
        name = str(request["CreateEndpoint"]["EndpointName"])
        made: list[str] = []
        for action in _NAMES:
            try:
                self._create(action, request[action])
            except (JobError, StoreUnavailable):
                for one in reversed(made):
                    self._delete(one, name)
                raise
            made.append(action)
        return name

    def complete(self, request: Request) -> None:
        """Create the autoscaler of an endpoint that is in service."""
        name = request["CreateEndpoint"]["EndpointName"]
        for action in _AFTER_READY:
            if action in request:
                self._call(name, action, request[action])

    def status(self, endpoint: str) -> EndpointStatus:
        """The status of an endpoint; failed where only its model or configuration is left."""
        ours = self._ours(endpoint)
        if "CreateEndpoint" in ours:
            return status_of(ours["CreateEndpoint"].described, self._region)
        left = " and ".join(_WORDS[action] for action in ours)
        return EndpointStatus(endpoint, "failed", "", f"only its {left} exists: undeploy it")

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        """The lines of all machines, each machine's with its name before them where there are
        several; with `follow` until the endpoint is gone and CloudWatch is quiet."""
        found = self._ours(endpoint).get("CreateEndpoint")
        variants = (found.described.get("ProductionVariants") if found else None) or [{}]
        several = variants[0].get("DesiredInstanceCount", 1) > 1
        log = CloudWatchLog(self.api("logs"), endpoint, ENDPOINTS, named=several)
        if not follow:
            return log.new_lines(True)
        return following.follow(log.new_lines, lambda: self._is_gone(endpoint), POLL_S, QUIET_POLLS)

    def undeploy(self, endpoint: str) -> None:
        """Delete the endpoint, which finishes what is in flight, its autoscaler, configuration and
        model."""
        ours = self._ours(endpoint)
        if "CreateEndpoint" in ours and AUTOSCALED in ours["CreateEndpoint"].tags:
            self._unless_absent(endpoint, "DeregisterScalableTarget", target_of(endpoint))
        for action in reversed(ours):
            self._delete(action, endpoint)

    def endpoints(self) -> Iterator[EndpointStatus]:
        """The endpoints with our tag, the newest first."""
        tag = {"Name": f"Tags.{TAG['Key']}", "Operator": "Equals", "Value": TAG["Value"]}
        search: dict[str, Any] = {
            "Resource": "Endpoint",
            "SearchExpression": {"Filters": [tag]},
            "SortBy": "CreationTime",
            "SortOrder": "Descending",
        }
        while True:
            answer = self._call("endpoints", "Search", search)
            for result in answer["Results"]:
                yield status_of(result["Endpoint"], self._region)
            if not answer.get("NextToken"):
                return
            search["NextToken"] = answer["NextToken"]

    def _create(self, action: str, body: Mapping[str, Any]) -> None:
        """Where the SDK had to retry, a name in use is that of its own first attempt."""
        from botocore.exceptions import ClientError

        name = body[_NAMES[action]]
        with aws_errors(name, "sagemaker"):
            try:
                self._method(action)(**body)
            except ClientError as error:
                facts = error.response["ResponseMetadata"]
                if "already existing" not in error.response["Error"]["Message"]:
                    raise
                if not facts.get("RetryAttempts"):
                    raise self._taken(name, error.response["Error"]["Message"]) from error

    def _taken(self, name: str, message: str) -> JobError:
        return JobError(
            f"name: expected a free name in {self._region}, got {name!r} [{message}]",
            f"choose another --name, or remove the endpoint: segadapt undeploy {name}",
        )

    def _delete(self, action: str, name: str) -> None:
        """Undo a `Create...` of this name."""
        deletion = action.replace("Create", "Delete")
        try:
            self._unless_absent(name, deletion, {_NAMES[action]: name})
        except JobError as error:
            if "in-progress" not in str(error):
                raise
            raise JobError(
                f"{name}: expected an endpoint that is ready or has failed, which alone AWS "
                "deletes, got one that is still made",
                f"wait with `segadapt endpoints status {name}`, then undeploy it",
            ) from error

    def _unless_absent(self, name: str, action: str, body: Mapping[str, Any]) -> None:
        try:
            self._call(name, action, body)
        except _Absent:
            return

    def _call(self, what: str, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of an action. Raises `_Absent` for what is not there."""
        from botocore.exceptions import ClientError

        with aws_errors(what, _service_of(action)):
            try:
                answer: dict[str, Any] = self._method(action)(**body)
            except ClientError as error:
                code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
                if code != "ObjectNotFoundException" and "Could not find" not in message:
                    raise
                raise _Absent(f"{what}: {message}") from error
        return answer

    def _method(self, action: str) -> Callable[..., Any]:
        from botocore import xform_name

        method: Callable[..., Any] = getattr(self.api(_service_of(action)), xform_name(action))
        return method

    def _described(self, name: str, action: str = "CreateEndpoint") -> dict[str, Any]:
        """AWS's description of what an action made. Raises `_Absent`."""
        return self._call(name, action.replace("Create", "Describe"), {_NAMES[action]: name})

    def _ours(self, name: str) -> dict[str, "_Part"]:
        """All that exists of an endpoint of ours, by the action that made it. Raises `JobError`
        where there is nothing, or an endpoint of others."""
        ours: dict[str, _Part] = {}
        for action, key in _NAMES.items():
            try:
                found = self._described(name, action)
                arn = found[key.replace("Name", "Arn")]
                tags = self._call(name, "ListTags", {"ResourceArn": arn})["Tags"]
            except _Absent:
                continue
            if TAG in tags:
                ours[action] = _Part(found, tags)
            elif action == "CreateEndpoint":
                raise self._unknown("another endpoint", name)
        if not ours:
            raise self._unknown("none", name)
        return ours

    def _unknown(self, other: str, name: str) -> JobError:
        return JobError(
            f"NAME: expected an endpoint of SegAdapt in {self._region}, got {other}, {name!r}",
            "take a name from `endpoints --to PROFILE`",
        )

    def _is_gone(self, name: str) -> bool:
        try:
            found = self._described(name)
        except _Absent:
            return True
        return bool(found["EndpointStatus"] == "Deleting")


class _Part(NamedTuple):
    """A model, a configuration or an endpoint: AWS's description of it, and its tags."""

    described: dict[str, Any]
    tags: list[dict[str, str]]


class _Absent(JobError):
    """AWS has no such object."""


def _service_of(action: str) -> str:
    return "application-autoscaling" if "Scalable" in action else SERVICES.get(action, "sagemaker")


def status_of(answer: Mapping[str, Any], region: str) -> EndpointStatus:
    """SageMaker's description of an endpoint -> its status."""
    name, status = answer["EndpointName"], answer["EndpointStatus"]
    state = _STATES.get(status, "unknown")
    (variant,) = answer.get("ProductionVariants") or [{}]
    now, wanted = variant.get("CurrentInstanceCount"), variant.get("DesiredInstanceCount")
    counted = "" if state != "ready" or now == wanted else f"{now} of {wanted} machines are ready"
    shown = "" if status == "InService" else status
    why = answer.get("FailureReason", "")
    detail = " ".join("; ".join(filter(None, (shown, counted, why))).split())
    return EndpointStatus(name, state, url_of(name, region), detail[:DETAIL_CHARACTERS])
