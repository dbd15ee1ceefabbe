"""The training jobs that predict a set, one for each slice: spot machines, restarts, logs and stops
are those of every job."""

from functools import partial

from adapt.platforms.platform import Request
from adapt.platforms.prediction import PROGRAM, Prediction, check_one_gpu, check_uris
from adapt.platforms.sagemaker.limits import check_request
from adapt.platforms.sagemaker.profile import SageMakerProfile
from adapt.platforms.sagemaker.request import GRACE_S, job_parts, key_of, spec_parts

REACHED = ("s3", "https")
"""Schemes that the machines read by the rights of role_arn, or without keys."""


def prediction_requests(prediction: Prediction, profile: SageMakerProfile) -> dict[str, Request]:
    """The bodies of CreateTrainingJob by the jobs' names. Raises `JobError`, a line for each
    mistake, for what SageMaker would refuse or what could not work there."""
    check_one_gpu(profile)
    check_uris(prediction, "", schemes=REACHED)
    found = {}
    for number in prediction.slices:
        name = prediction.name_of(number)
        body = _body(name, number, prediction, profile)
        check_request("sagemaker", "CreateTrainingJob", body, partial(key_of, profile=profile))
        found[name] = body
    return found


def _body(name: str, number: int, prediction: Prediction, profile: SageMakerProfile) -> Request:
    region = {"AWS_DEFAULT_REGION": profile.region}
    spec = {} if prediction.spec is None else spec_parts(prediction.spec)
    one = profile.model_copy(update={"nodes": 1})
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": profile.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": [*PROGRAM],
            "ContainerArguments": prediction.arguments(number),
        },
        **({"HyperParameters": spec} if spec else {}),
        "Environment": region | prediction.environment(profile, GRACE_S),
        **job_parts(one),
    }
