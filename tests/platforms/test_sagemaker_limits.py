"""AWS's own description of a service, held against requests."""

import re
from typing import Any

import pytest
from botocore.session import get_session

from adapt.errors import JobError
from adapt.platforms.sagemaker.limits import _compiled, check_request

FINE: dict[str, Any] = {
    "TrainingJobName": "town-1",
    "RoleArn": "arn:aws:iam::111122223333:role/segadapt",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
    "EnableManagedSpotTraining": True,
    "Tags": [{"Key": "Straße 7", "Value": "a b/c"}],
}


def check(**changes: Any) -> None:
    check_request("sagemaker", "CreateTrainingJob", FINE | changes, lambda path: f"<{path}>")


def test_what_aws_allows_passes() -> None:
    check()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"TrainingJobName": "my_town"}, r"<TrainingJobName>: expected a text of the form .*"),
        (
            {"TrainingJobName": "a" * 64},
            r"<TrainingJobName>: expected at most 63 characters, got 64",
        ),
        ({"TrainingJobName": ""}, r"<TrainingJobName>: expected at least 1 characters, got 0.*"),
        ({"RoleArn": "segadapt"}, r"<RoleArn>: expected at least 20 characters, got 8.*"),
        ({"OutputDataConfig": {}}, r"<OutputDataConfig.S3OutputPath>: missing"),
        ({"Town": 1}, r"<Town>: is no part of this request. Fix: update boto3, if it is too old\."),
        ({"EnableManagedSpotTraining": "yes"}, r"<Ena.*>: expected a boolean, got 'yes'"),
        ({"RetryStrategy": {"MaximumRetryAttempts": True}}, r"<Ret.*>: expected a integer, .*True"),
        ({"RetryStrategy": {"MaximumRetryAttempts": 0}}, r"<.*>: expected at least 1, got 0"),
        ({"RetryStrategy": {"MaximumRetryAttempts": 31}}, r"<.*>: expected at most 30, got 31"),
        ({"Environment": {"A": "x" * 513}}, r"<Environment.A>: expected at most 512 characters.*"),
        ({"Environment": {"A-B": "x"}}, r"<Environment.A-B>: expected a text of the form .*'A-B'"),
        ({"Environment": {f"A{n}": "" for n in range(101)}}, r"<Environment>: .* 100 entries, .*"),
        ({"HyperParameters": {"a": "x\ny"}}, r"<HyperParameters.a>: expected a text of the form.*"),
        ({"Tags": [{"Key": "a;b", "Value": ""}]}, r"<Tags.0.Key>: expected a text of the form .*"),
        (
            {"ResourceConfig": {"InstanceType": "g5.xlarge"}},
            r"<ResourceConfig.InstanceType>: expected a name that AWS knows, got 'g5.xlarge' "
            r"\(known: .*ml.g5.xlarge.*\). Fix: update boto3, if the name is new\.",
        ),
        (
            {"OutputDataConfig": {"S3OutputPath": "s3://b", "CompressionType": "ZIP"}},
            r"<.*CompressionType>: expected a name .* got 'ZIP' \(known: GZIP, NONE\). Fix: .*",
        ),
    ],
)
def test_what_aws_would_refuse_is_named_by_key(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(JobError) as caught:
        check(**changes)
    assert re.fullmatch(complaint, str(caught.value).splitlines()[0]), str(caught.value)


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(JobError) as caught:
        check(TrainingJobName="a_b", RetryStrategy={"MaximumRetryAttempts": 99})
    assert len(str(caught.value).splitlines()) == 2


def test_every_pattern_of_a_training_job_can_be_read() -> None:
    model = get_session().get_service_model("sagemaker")
    patterns: set[str] = set()

    def collect(shape: Any) -> None:
        patterns.add(shape.metadata.get("pattern", ""))
        members = list(getattr(shape, "members", {}).values())
        for part in [*members, *(getattr(shape, p, None) for p in ("member", "key", "value"))]:
            if part is not None:
                collect(part)

    collect(model.operation_model("CreateTrainingJob").input_shape)
    assert len(patterns) > 20
    for pattern in patterns:
        assert "\\p" not in _compiled(pattern).pattern
