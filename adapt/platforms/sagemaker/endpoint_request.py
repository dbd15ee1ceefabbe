"""The requests for an endpoint of SageMaker, by the action of AWS's API: model, endpoint
configuration, endpoint, and where it grows, scalable target and scaling policy.

SageMaker starts the image with the word `serve` alone, so the model is the variable SEGADAPT_MODEL,
and the server reads it from S3 by the rights of the role.
"""

from functools import partial
from typing import Any

from adapt.errors import JobError
from adapt.platforms.endpoint import Deployment, option_variables
from adapt.platforms.platform import Request
from adapt.platforms.sagemaker.limits import check_request
from adapt.platforms.sagemaker.machines import gpus_of, has_own_disk, memory_gb_of
from adapt.platforms.sagemaker.prediction import REACHED
from adapt.platforms.sagemaker.profile import SageMakerProfile
from adapt.platforms.sagemaker.request import network_of
from storage.uris import split_uri, without_password

TAG = {"Key": "segadapt", "Value": "endpoint"}
"""By which `endpoints` finds what SegAdapt deployed."""

AUTOSCALED = {"Key": "segadapt-autoscaled", "Value": "yes"}
"""On an endpoint with an autoscaler, so that `undeploy` needs rights over those only then."""

VARIANT = "main"
STARTUP_S = 1800
"""Longest that a container may read its model and warm up."""

GRACE_S = 30.0
"""Seconds between SageMaker's SIGTERM and its SIGKILL of a container."""

SERVICES = {
    "CreateModel": "sagemaker",
    "CreateEndpointConfig": "sagemaker",
    "CreateEndpoint": "sagemaker",
    "RegisterScalableTarget": "application-autoscaling",
    "PutScalingPolicy": "application-autoscaling",
}
"""The actions in order, each with its service."""

_KEYS = {
    "ExecutionRoleArn": "role_arn",
    "PrimaryContainer.Image": "image",
    "PrimaryContainer.Environment": "environment",
    "VpcConfig.Subnets": "vpc.subnets",
    "VpcConfig.SecurityGroupIds": "vpc.security_groups",
    "Tags": "tags",
    "ProductionVariants.0.InstanceType": "instance_type",
    "ProductionVariants.0.VolumeSizeInGB": "volume_gb",
    "KmsKeyId": "volume_kms_key",
}
"""AWS's paths, and the keys of profiles."""


def endpoint_request(deployment: Deployment, profile: SageMakerProfile) -> Request:
    """The bodies, by action. Raises `JobError`, a line for each mistake, for what AWS would
    refuse, and for a model that its machines cannot reach."""
    scheme, _ = split_uri(deployment.model)
    if scheme not in REACHED:
        raise JobError(
            "MODEL: expected s3://BUCKET/... or https://..., which role_arn reaches without keys, "
            f"got {without_password(deployment.model)!r}",
            "copy the checkpoint's folder into a bucket, and name its URI",
        )
    on = on_machines(profile)
    bodies = {
        "CreateModel": _model(deployment, on),
        "CreateEndpointConfig": _config(deployment, on),
        "CreateEndpoint": {
            "EndpointName": deployment.name,
            "EndpointConfigName": deployment.name,
            "Tags": [*_tags(on), *([{**AUTOSCALED}] if after_ready(on) else [])],
        },
        **_autoscaling(deployment.name, on),
    }
    key_of = partial(_key_of, profile=profile)
    for action, body in bodies.items():
        check_request(SERVICES[action], action, body, key_of)
    return bodies


def on_machines(profile: SageMakerProfile) -> SageMakerProfile:
    """The profile with the machine, GPUs and price of an endpoint, which is never on spot
    machines."""
    machine, price = profile.serve.instance_type, profile.serve.price_per_hour
    own = machine is None or machine == profile.instance_type
    if price is None and own and not profile.spot:
        price = profile.price_per_hour
    changed: dict[str, Any] = {"price_per_hour": price}
    if not own:
        gpus = gpus_of(str(machine))
        changed |= {"instance_type": machine, "gpu": None, "gpu_memory_gb": None}
        changed |= {"gpus": profile.gpus if gpus is None else gpus}
        changed |= {"gpu_memory_gb": memory_gb_of(str(machine))}
    return profile.model_copy(update=changed)


def url_of(name: str, region: str) -> str:
    """Where an endpoint takes signed requests."""
    tail = ".cn" if region.startswith("cn-") else ""
    return f"https://runtime.sagemaker.{region}.amazonaws.com{tail}/endpoints/{name}/invocations"


def reach(_deployment: Deployment, profile: SageMakerProfile) -> str:
    """The users that may send requests."""
    account = profile.role_arn.split(":")[4]
    return f"who may call sagemaker:InvokeEndpoint in account {account}, {profile.region}"


def access(_profile: SageMakerProfile) -> str:
    """The proof that a request needs."""
    return "requests are signed with AWS's keys"


def after_ready(profile: SageMakerProfile) -> str:
    """The part that AWS takes only of an endpoint that is in service."""
    return "" if profile.serve.max_replicas is None else "its autoscaler"


def _model(deployment: Deployment, profile: SageMakerProfile) -> dict[str, Any]:
    region = {"AWS_DEFAULT_REGION": profile.region}
    variables = deployment.environment(profile, deployment.model, GRACE_S)
    return {
        "ModelName": deployment.name,
        "ExecutionRoleArn": profile.role_arn,
        "PrimaryContainer": {
            "Image": profile.image,
            "Mode": "SingleModel",
            "Environment": region | variables | option_variables(profile.serve.arguments),
        },
        **({"VpcConfig": network_of(profile)} if profile.vpc else {}),
        "Tags": _tags(profile),
    }


def _config(deployment: Deployment, profile: SageMakerProfile) -> dict[str, Any]:
    disk: dict[str, Any] = {}
    key: dict[str, Any] = {}
    if not has_own_disk(profile.instance_type):
        disk = {} if profile.volume_gb is None else {"VolumeSizeInGB": profile.volume_gb}
        key = {} if profile.volume_kms_key is None else {"KmsKeyId": profile.volume_kms_key}
    variant = {
        "VariantName": VARIANT,
        "ModelName": deployment.name,
        "InitialInstanceCount": profile.serve.replicas,
        "InstanceType": profile.instance_type,
        "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_S,
        **disk,
    }
    return {
        "EndpointConfigName": deployment.name,
        "ProductionVariants": [variant],
        **key,
        "Tags": _tags(profile),
    }


def target_of(name: str) -> dict[str, str]:
    """The number of an endpoint's machines, as Application Auto Scaling names it."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def _autoscaling(name: str, profile: SageMakerProfile) -> dict[str, Any]:
    """By requests at work, which does not depend on how fast the model is."""
    if profile.serve.max_replicas is None:
        return {}
    fewest, most = profile.serve.bounds
    metric = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    return {
        "RegisterScalableTarget": {
            **target_of(name),
            "MinCapacity": fewest,
            "MaxCapacity": most,
        },
        "PutScalingPolicy": {
            "PolicyName": f"segadapt-{name}",
            **target_of(name),
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": float(profile.serve.concurrent_requests),
                "PredefinedMetricSpecification": {"PredefinedMetricType": metric},
            },
        },
    }


def _tags(profile: SageMakerProfile) -> list[dict[str, str]]:
    return [{**TAG}, *({"Key": key, "Value": value} for key, value in sorted(profile.tags.items()))]


def _key_of(path: str, profile: SageMakerProfile) -> str:
    """The profile's key of a path of AWS's; the path itself where it has none."""
    for theirs in sorted(_KEYS, key=len, reverse=True):
        if path == theirs or path.startswith(f"{theirs}."):
            own = profile.serve.instance_type and _KEYS[theirs] == "instance_type"
            return ("serve." if own else "") + _KEYS[theirs] + path.removeprefix(theirs)
    return path
