"""A job and a profile -> the request of CreateTrainingJob.

The image is started with the word `train`. A variable has at most 512 characters, so the job spec
travels in hyperparameters of 2500 each, which `adapt.places.sagemaker` joins.
"""

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from adapt.errors import JobError
from adapt.places import CHANNELS
from adapt.platforms.platform import Request, Submission
from adapt.platforms.reachable import key_faults, raise_together, unreachable
from adapt.platforms.sagemaker.limits import check_request
from adapt.platforms.sagemaker.profile import Channel, SageMakerProfile
from storage.uris import split_uri

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

GRACE_S = 120.0
SPEC_PART = 2500
OFFERS = {
    "checkpoint.uri": "checkpoint_uri in the profile",
    **{CHANNELS[n]: f"channels.{n} in the profile" for n in ("source", "target", "validation")},
}
"""The profile's keys that make a URI of the job spec reachable for SageMaker's machines."""

CHECKPOINTS = "/opt/ml/checkpoints"
TAG = {"Key": "segadapt", "Value": "job"}
"""By which `jobs` finds what SegAdapt submitted."""

_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
METRICS = {
    "validation:miou_percent": rf"step \d+: (?:.*, )?miou {_NUMBER}%",
    "validation:miou_synthia16_percent": rf"step \d+: (?:.*, )?miou_synthia16 {_NUMBER}%",
    "validation:miou_synthia13_percent": rf"step \d+: (?:.*, )?miou_synthia13 {_NUMBER}%",
    "validation:pixel_accuracy_percent": rf"step \d+: (?:.*, )?pixel_accuracy {_NUMBER}%",
    "loss:segmentation": rf"step \d+/\d+ .*? segmentation/\w+ {_NUMBER}",
    "loss:adversarial": rf"step \d+/\d+ .*? adversarial/\w+ {_NUMBER}",
    "loss:entropy": rf"step \d+/\d+ .*? entropy/\w+ {_NUMBER}",
    "loss:confusion": rf"step \d+/\d+ .*? confusion/\w+ {_NUMBER}",
    "loss:discriminator_source": rf"step \d+/\d+ .*? discriminator_source/\w+ {_NUMBER}",
    "loss:discriminator_target": rf"step \d+/\d+ .*? discriminator_target/\w+ {_NUMBER}",
    "speed:samples_per_s": rf"step \d+/\d+ .*? {_NUMBER} samples/s",
    "speed:waiting_percent": rf"step \d+/\d+ .*? waiting {_NUMBER}%",
}
"""The metrics that SageMaker draws, from lines of `adapt.trainer.trainer` and `adapt.cli.live`; of
several heads' losses the first, the main one."""

_KEYS = {
    "TrainingJobName": "name",
    "RoleArn": "role_arn",
    "AlgorithmSpecification.TrainingImage": "image",
    "ResourceConfig.InstanceType": "instance_type",
    "ResourceConfig.InstanceCount": "nodes",
    "ResourceConfig.VolumeSizeInGB": "volume_gb",
    "ResourceConfig.VolumeKmsKeyId": "volume_kms_key",
    "ResourceConfig.KeepAlivePeriodInSeconds": "keep_alive_s",
    "StoppingCondition.MaxRuntimeInSeconds": "max_hours",
    "StoppingCondition.MaxWaitTimeInSeconds": "max_wait_hours",
    "RetryStrategy.MaximumRetryAttempts": "retries",
    "OutputDataConfig.S3OutputPath": "output_uri",
    "OutputDataConfig.KmsKeyId": "kms_key",
    "CheckpointConfig.S3Uri": "checkpoint_uri",
    "VpcConfig.Subnets": "vpc.subnets",
    "VpcConfig.SecurityGroupIds": "vpc.security_groups",
    "ProcessingJobName": "name",
    "AppSpecification.ImageUri": "image",
    "ProcessingResources.ClusterConfig.InstanceType": "instance_type",
    "ProcessingResources.ClusterConfig.VolumeSizeInGB": "volume_gb",
    "ProcessingResources.ClusterConfig.VolumeKmsKeyId": "volume_kms_key",
    "NetworkConfig.VpcConfig.Subnets": "vpc.subnets",
    "NetworkConfig.VpcConfig.SecurityGroupIds": "vpc.security_groups",
    "Environment": "environment",
    "Tags": "tags",
    "HyperParameters": "the job spec",
    "InputDataConfig": "channels",
}
"""AWS's paths in requests of training and of processing jobs, and the keys of profiles."""


def request(submission: Submission, profile: SageMakerProfile) -> Request:
    """The body of CreateTrainingJob.

    Raises `JobError`, a line for each mistake, for what SageMaker would refuse or what could not
    work there.
    """
    _check_uris(submission.job, profile)
    opened = _opened(submission.job, profile).values()
    raise_together(key_faults(opened, profile, submission.job.stores))
    body = _request(submission, profile)
    check_request("sagemaker", "CreateTrainingJob", body, partial(key_of, profile=profile))
    return body


def _request(submission: Submission, profile: SageMakerProfile) -> Request:
    region = {"AWS_DEFAULT_REGION": profile.region}  # the SDKs read no other; stores need it
    body = {
        "TrainingJobName": submission.name,
        "AlgorithmSpecification": {
            "TrainingImage": profile.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": key, "Regex": METRICS[key]} for key in METRICS],
        },
        "HyperParameters": spec_parts(submission.spec_base64()),
        "Environment": region | submission.environment(profile, GRACE_S),
        "InputDataConfig": [_channel(name, one) for name, one in sorted(profile.channels.items())],
        "CheckpointConfig": _checkpoints(submission.job, profile),
        **_job_parts(profile),
    }
    return {key: value for key, value in body.items() if value not in ({}, [])}


def _job_parts(profile: SageMakerProfile) -> Request:
    """The parts of the body that the profile alone decides."""
    return {
        "RoleArn": profile.role_arn,
        # weights do not become smaller by gzip
        "OutputDataConfig": given(
            S3OutputPath=profile.output_uri, KmsKeyId=profile.kms_key, CompressionType="NONE"
        ),
        "ResourceConfig": given(
            InstanceType=profile.instance_type,
            InstanceCount=profile.nodes,
            VolumeSizeInGB=profile.volume_gb,
            VolumeKmsKeyId=profile.volume_kms_key,
            KeepAlivePeriodInSeconds=profile.keep_alive_s,
        ),
        "StoppingCondition": given(
            MaxRuntimeInSeconds=seconds(profile.max_hours),
            MaxWaitTimeInSeconds=seconds(profile.max_wait_hours),
        ),
        "EnableManagedSpotTraining": profile.spot,
        "EnableInterContainerTrafficEncryption": profile.encrypt_traffic,
        "VpcConfig": network_of(profile),
        "RetryStrategy": given(MaximumRetryAttempts=profile.retries),
        "Tags": tags_of(profile),
    }


def tags_of(profile: SageMakerProfile) -> list[dict[str, str]]:
    """The tags of a job: ours, and the profile's."""
    theirs = [{"Key": key, "Value": value} for key, value in sorted(profile.tags.items())]
    return [{**TAG}, *theirs]


def given(**values: Any) -> dict[str, Any]:
    """Those of the values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def seconds(hours: float | None) -> int | None:
    """Whole seconds, at least one; None stays None."""
    return None if hours is None else max(1, round(3600 * hours))


def spec_parts(text: str) -> dict[str, str]:
    """A job spec in base64 as hyperparameters, which `adapt.places.sagemaker` joins."""
    starts = range(0, len(text), SPEC_PART)
    return {f"spec_base64_{n}": text[at : at + SPEC_PART] for n, at in enumerate(starts)}


def _channel(name: str, channel: Channel) -> dict[str, Any]:
    """A prefix without `/` would include its namesakes, and FastFile refuses it."""
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": channel.uri.rstrip("/") + "/",
        "S3DataDistributionType": "FullyReplicated",
    }
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": source},
        "InputMode": channel.mode,
    }


def _checkpoints(job: "JobSpec", profile: SageMakerProfile) -> dict[str, str]:
    mirror = profile.checkpoints_at(job.name)
    return {} if mirror is None else {"S3Uri": mirror, "LocalPath": CHECKPOINTS}


def network_of(profile: SageMakerProfile) -> dict[str, list[str]]:
    """AWS's VpcConfig of a profile's own network; empty without one."""
    if profile.vpc is None:
        return {}
    return {
        "Subnets": list(profile.vpc.subnets),
        "SecurityGroupIds": list(profile.vpc.security_groups),
    }


def _check_uris(job: "JobSpec", profile: SageMakerProfile) -> None:
    """SageMaker's machines have none of our files, and their disks are lost with the job."""
    ours = {"output_uri": profile.output_uri}
    ours |= {f"channels.{name}.uri": channel.uri for name, channel in profile.channels.items()}
    ours |= {"checkpoint_uri": profile.checkpoint_uri} if profile.checkpoint_uri else {}
    lines = [
        f"{key}: expected s3://BUCKET/PREFIX, got {uri!r}"
        for key, uri in ours.items()
        if split_uri(uri)[0] != "s3"
    ]
    lines += [
        f"channels.{name}: expected {CHANNELS[name]} in the job spec, which it replaces, got none. "
        "Fix: remove the channel (lists of datasets are read from their stores)"
        for name in profile.channels
        if name in CHANNELS and CHANNELS[name] not in job.uris()
    ]
    lines += unreachable(job, profile, OFFERS)
    if lines:
        raise JobError("\n".join(lines))


def _opened(job: "JobSpec", profile: SageMakerProfile) -> dict[str, str]:
    """The URIs that the job itself opens: all that SageMaker does not transfer."""
    brought = profile.replaced()
    return {key: uri for key, uri in job.uris().items() if key not in brought}


def key_of(path: str, profile: SageMakerProfile) -> str:
    """The profile's key of a path of AWS's; the path itself where it has none."""
    for theirs in sorted(_KEYS, key=len, reverse=True):
        if path == theirs or path.startswith(f"{theirs}."):
            key = _KEYS[theirs] + path.removeprefix(theirs)
            break
    else:
        return path
    channel = re.fullmatch(r"channels\.(\d+)\..*S3Uri", key)
    if channel:
        return f"channels.{sorted(profile.channels)[int(channel[1])]}.uri"
    return key
