"""The account's models, endpoint configurations, endpoints and autoscalers, behind the protocols of
`tests.platforms.aws_server`: every request and every answer holds what AWS's own models say.

Endpoints go through their states one description at a time. What AWS refuses beyond its models is
refused here: names in use, parts that do not exist, the deletion of an endpoint that is still made,
an autoscaler of one that is not in service.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.platforms.aws_server import REGION, AwsRefused, serve
from tests.platforms.sagemaker_double import SageMakerDouble
from tests.platforms.sagemaker_processing_double import ACCOUNT

KINDS = {
    "Model": ("model", "model"),
    "EndpointConfig": ("endpoint-config", "endpoint configuration"),
    "Endpoint": ("endpoint", "endpoint"),
}
"""By the word in AWS's actions: the one in ARNs, and the one in messages."""
STATES = ["Creating", "Creating", "InService"]


def arn_of(kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{KINDS[kind][0]}/{name}"


class SageMakerEndpointsDouble(SageMakerDouble):
    """`things[KIND]` is what exists; `targets` and `policies` are the autoscalers by resource."""

    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.states: dict[str, list[str]] = {}
        self.next_states = list(STATES)
        self.targets: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[tuple[int, str]]] = {}

    def left(self) -> dict[str, list[str]]:
        """The names of what exists, of each kind that has some."""
        found = {kind: list(things) for kind, things in self.things.items()}
        return {kind: names for kind, names in found.items() if names}

    def _create(self, kind: str, given: dict[str, Any]) -> dict[str, Any]:
        name = given[f"{kind}Name"]
        arn = arn_of(kind, name)
        if name in self.things[kind]:
            raise AwsRefused(
                "ValidationException", f'Cannot create already existing {KINDS[kind][1]} "{arn}".'
            )
        self.clock_s += 1
        made = {f"{kind}Arn": arn, "CreationTime": self.clock_s}
        self.things[kind][name] = {**given, **made}
        return {f"{kind}Arn": arn}

    def _find(self, kind: str, name: str) -> dict[str, Any]:
        if name not in self.things[kind]:
            arn = arn_of(kind, name)
            raise AwsRefused("ValidationException", f'Could not find {KINDS[kind][1]} "{arn}".')
        return self.things[kind][name]

    def _CreateModel(self, given: dict[str, Any]) -> dict[str, Any]:
        return self._create("Model", given)

    def _CreateEndpointConfig(self, given: dict[str, Any]) -> dict[str, Any]:
        for variant in given["ProductionVariants"]:
            self._find("Model", variant["ModelName"])
        return self._create("EndpointConfig", given)

    def _CreateEndpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        self._find("EndpointConfig", given["EndpointConfigName"])
        made = self._create("Endpoint", given)
        self.states[given["EndpointName"]] = list(self.next_states)
        return made

    def _DescribeModel(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self._find("Model", given["ModelName"])
        keys = ("ModelName", "PrimaryContainer", "ExecutionRoleArn", "ModelArn", "CreationTime")
        return {key: found[key] for key in keys}

    def _DescribeEndpointConfig(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self._find("EndpointConfig", given["EndpointConfigName"])
        keys = ("EndpointConfigName", "EndpointConfigArn", "ProductionVariants", "CreationTime")
        return {key: found[key] for key in keys}

    def _DescribeEndpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["EndpointName"]
        found = self._described_endpoint(name)
        if len(self.states[name]) > 1:
            self.states[name].pop(0)
        elif self.states[name] == ["Deleting"]:
            del self.things["Endpoint"][name]
        return found

    def _described_endpoint(self, name: str) -> dict[str, Any]:
        endpoint, state = self._find("Endpoint", name), self.states[name][0]
        config = self.things["EndpointConfig"].get(endpoint["EndpointConfigName"], {})
        variants = [
            {
                "VariantName": one["VariantName"],
                "CurrentInstanceCount": one["InitialInstanceCount"],
                "DesiredInstanceCount": one["InitialInstanceCount"],
            }
            for one in config.get("ProductionVariants", ())
        ]
        shown = state not in ("Creating", "Failed") and variants
        return {
            "EndpointName": name,
            "EndpointArn": endpoint["EndpointArn"],
            "EndpointConfigName": endpoint["EndpointConfigName"],
            "EndpointStatus": state,
            "CreationTime": endpoint["CreationTime"],
            "LastModifiedTime": self.clock_s,
            **({"ProductionVariants": variants} if shown else {}),
            **({"FailureReason": self.reason} if state == "Failed" else {}),
        }

    def _DeleteEndpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["EndpointName"]
        self._find("Endpoint", name)
        if self.states[name][0] in ("Creating", "Updating"):
            message = f'Cannot update in-progress endpoint "{arn_of("Endpoint", name)}".'
            raise AwsRefused("ValidationException", message)
        self.states[name] = ["Deleting"]
        return {}

    def _DeleteEndpointConfig(self, given: dict[str, Any]) -> dict[str, Any]:
        self._find("EndpointConfig", given["EndpointConfigName"])
        del self.things["EndpointConfig"][given["EndpointConfigName"]]
        return {}

    def _DeleteModel(self, given: dict[str, Any]) -> dict[str, Any]:
        self._find("Model", given["ModelName"])
        del self.things["Model"][given["ModelName"]]
        return {}

    def _ListTags(self, given: dict[str, Any]) -> dict[str, Any]:
        for kind, things in self.things.items():
            for thing in things.values():
                if thing[f"{kind}Arn"] == given["ResourceArn"]:
                    return {"Tags": thing.get("Tags", [])}
        raise AwsRefused("ValidationException", "Could not find the resource.")

    def _Search(self, given: dict[str, Any]) -> dict[str, Any]:
        """Pages of two."""
        if given["Resource"] != "Endpoint":
            return super()._Search(given)
        (wanted,) = given["SearchExpression"]["Filters"]
        assert wanted["Operator"] == "Equals" and given["SortOrder"] == "Descending"
        tag = {"Key": wanted["Name"].removeprefix("Tags."), "Value": wanted["Value"]}
        all_ = self.things["Endpoint"]
        found = [name for name, one in all_.items() if tag in one.get("Tags", [])]
        found.sort(key=lambda name: -all_[name]["CreationTime"])
        at = int(given.get("NextToken", "0"))
        page = [{"Endpoint": self._described_endpoint(name)} for name in found[at : at + 2]]
        return {"Results": page, **({"NextToken": str(at + 2)} if len(found) > at + 2 else {})}

    def _RegisterScalableTarget(self, given: dict[str, Any]) -> dict[str, Any]:
        _, name, _, variant = given["ResourceId"].split("/")
        running = name in self.states and self.states[name][0] == "InService"
        if variant != "main" or not running:
            raise AwsRefused("ValidationException", "No ProductionVariant found.")
        if given["MinCapacity"] > given["MaxCapacity"]:
            raise AwsRefused("ValidationException", "Minimum capacity exceeds maximum capacity.")
        self.targets[given["ResourceId"]] = given
        return {"ScalableTargetARN": f"arn:aws:autoscaling:{given['ResourceId']}"}

    def _PutScalingPolicy(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["ResourceId"] not in self.targets:
            raise AwsRefused("ObjectNotFoundException", "No scalable target registered.")
        self.policies[given["ResourceId"]] = given
        return {"PolicyARN": f"arn:aws:autoscaling:{given['PolicyName']}", "Alarms": []}

    def _DeregisterScalableTarget(self, given: dict[str, Any]) -> dict[str, Any]:
        """With its policies, as AWS does."""
        if given["ResourceId"] not in self.targets:
            raise AwsRefused("ObjectNotFoundException", "No scalable target registered.")
        del self.targets[given["ResourceId"]]
        self.policies.pop(given["ResourceId"], None)
        return {}

    def _DescribeLogStreams(self, given: dict[str, Any]) -> dict[str, Any]:
        group = "/aws/sagemaker/Endpoints/"
        if not given["logGroupName"].startswith(group):
            return super()._DescribeLogStreams(given)
        assert "logStreamNamePrefix" not in given
        name = given["logGroupName"].removeprefix(group)
        streams = [one.removeprefix(f"{name}:") for one in self.streams if f"{name}:" in one]
        if not streams:
            raise AwsRefused("ResourceNotFoundException", "The specified log group does not exist.")
        return {"logStreams": [{"logStreamName": one} for one in sorted(streams)]}

    def _GetLogEvents(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["logGroupName"].removeprefix("/aws/sagemaker/Endpoints/")
        if name == given["logGroupName"]:
            return super()._GetLogEvents(given)
        stream = f"{name}:{given['logStreamName']}"
        return super()._GetLogEvents({**given, "logStreamName": stream})


@contextmanager
def aws_endpoints_double() -> Iterator[SageMakerEndpointsDouble]:
    """A running double; its `url` is the address of every service."""
    double = SageMakerEndpointsDouble()
    with serve(double) as double.url:
        yield double
