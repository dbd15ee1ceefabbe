"""The training jobs that predict a set, one for each slice: spot machines, restarts, logs and stops
are those of every job."""

from functools import partial

from adapt.errors import JobError
from adapt.platforms.platform import Request
from adapt.platforms.prediction import PROGRAM, Prediction, check_one_gpu, check_paths
from adapt.platforms.sagemaker.limits import check_request
from adapt.platforms.sagemaker.profile import SageMakerProfile
from adapt.platforms.sagemaker.request import GRACE_S, job_parts, key_of, spec_parts
from storage.stores import READ_ONLY
from storage.uris import split_uri, without_password

_REACHED = ("s3", *READ_ONLY)


def prediction_requests(prediction: Prediction, profile: SageMakerProfile) -> dict[str, Request]:
    """The bodies of CreateTrainingJob by the jobs' names. Raises `JobError`, a line for each
    mistake, for what SageMaker would refuse or what could not work there."""
    check_one_gpu(profile)
    check_paths(prediction, "")
    _check_stores(prediction)
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


def _check_stores(prediction: Prediction) -> None:
    """The jobs have no keys but those of their role."""
    uris = {"MODEL": prediction.model, "--out": prediction.out}
    uris |= {f"INPUT {number}": uri for number, uri in enumerate(prediction.inputs)}
    lines = [
        f"{key}: expected s3://BUCKET/..., which role_arn reaches without keys, got "
        f"{without_password(uri)!r}"
        for key, uri in uris.items()
        if split_uri(uri)[0] not in _REACHED
    ]
    if lines:
        raise JobError("\n".join(lines), "copy it into a bucket, and name its URI")
