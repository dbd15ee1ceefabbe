"""The processing jobs that predict a set, one for each slice: `predict` reads and writes S3 by
itself, so that they have neither inputs nor outputs. They have no spot machines, no restarts and
no hyperparameters: a spec travels in variables, which `adapt.places.sagemaker` joins.
"""

from functools import partial

from adapt.errors import JobError
from adapt.places import SPEC_VARIABLES
from adapt.places.sagemaker import PROCESSING_GRACE_S
from adapt.platforms.platform import Request
from adapt.platforms.prediction import PROGRAM, Sliced, check_one_gpu, check_uris
from adapt.platforms.sagemaker.limits import check_request
from adapt.platforms.sagemaker.profile import SageMakerProfile
from adapt.platforms.sagemaker.request import given, key_of, network_of, seconds, tags_of

REACHED = ("s3", "https")
"""Schemes that the machines read by the rights of role_arn, or without keys."""

VOLUME_GB = 30
"""AWS wants a size also of a machine with disks of its own, which it then gives whole."""

MOST_HOURS = 216
MOST_VARIABLES, VARIABLE_CHARACTERS = 100, 256
"""AWS's limits of processing jobs."""


def prediction_requests(prediction: Sliced, profile: SageMakerProfile) -> dict[str, Request]:
    """The bodies of CreateProcessingJob by the jobs' names. Raises `JobError`, a line for each
    mistake, for what SageMaker would refuse or what could not work there."""
    check_one_gpu(profile)
    check_uris(prediction, "", schemes=REACHED)
    if profile.max_hours > MOST_HOURS:
        raise JobError(
            f"max_hours: expected at most {MOST_HOURS} for the processing jobs of "
            f"`{prediction.command}`, got {profile.max_hours:g}",
            "lower it (--set max_hours=24), and take more slices",
        )
    found = {}
    for number in prediction.slices:
        name = prediction.name_of(number)
        body = _body(name, number, prediction, profile)
        check_request("sagemaker", "CreateProcessingJob", body, partial(key_of, profile=profile))
        found[name] = body
    return found


def prediction_facts(profile: SageMakerProfile) -> dict[str, str]:
    """The facts to confirm where the profile asks for spot machines, whose price is another."""
    if not profile.spot:
        return {}
    found = {"machines": "on demand: slices are processing jobs, which have no spot machines"}
    if profile.price_per_hour is not None:
        found["price"] = "that of machines on demand; price_per_hour is of spot machines"
    return found


def _body(name: str, number: int, prediction: Sliced, profile: SageMakerProfile) -> Request:
    body = {
        "ProcessingJobName": name,
        "ProcessingResources": {"ClusterConfig": _machine(profile)},
        "StoppingCondition": {"MaxRuntimeInSeconds": seconds(profile.max_hours)},
        "AppSpecification": {
            "ImageUri": profile.image,
            "ContainerEntrypoint": [*PROGRAM],
            "ContainerArguments": prediction.arguments(number),
        },
        "Environment": _variables(prediction, profile),
        "NetworkConfig": given(
            EnableInterContainerTrafficEncryption=profile.encrypt_traffic or None,
            VpcConfig=network_of(profile) or None,
        ),
        "RoleArn": profile.role_arn,
        "Tags": tags_of(profile),
    }
    return {key: value for key, value in body.items() if value != {}}


def _machine(profile: SageMakerProfile) -> Request:
    return given(
        InstanceType=profile.instance_type,
        InstanceCount=1,
        VolumeSizeInGB=profile.volume_gb or VOLUME_GB,
        VolumeKmsKeyId=profile.volume_kms_key,
    )


def _variables(prediction: Sliced, profile: SageMakerProfile) -> dict[str, str]:
    """The variables of a slice, with the spec in parts. Raises `JobError` where it is too long."""
    region = {"AWS_DEFAULT_REGION": profile.region}
    plain = region | prediction.environment(profile, PROCESSING_GRACE_S)
    text = prediction.spec or ""
    most = VARIABLE_CHARACTERS * max(0, MOST_VARIABLES - len(plain))
    if len(text) > most:
        raise JobError(
            f"--spec: expected at most {most} characters in base64, got {len(text)}",
            "name a spec without large tables, which has the same stores",
        )
    starts = range(0, len(text), VARIABLE_CHARACTERS)
    parts = {
        f"{SPEC_VARIABLES}{n}": text[at : at + VARIABLE_CHARACTERS] for n, at in enumerate(starts)
    }
    return plain | parts
