"""Refusals and outages of AWS, each with its fix."""

from pathlib import Path

import pytest

from adapt.errors import JobError
from storage.errors import StoreUnavailable
from tests.platforms.sagemaker_double import SageMakerDouble
from tests.platforms.sagemaker_jobs import ROLE, client, request, started, without_keys


def test_a_name_in_use_is_named(aws: SageMakerDouble) -> None:
    connected = client(aws)
    connected.submit(request(aws))
    with pytest.raises(
        JobError, match=r"tiny-1: there is a job of this name already .*Fix: submit ag"
    ):
        connected.submit(request(aws))


def test_a_job_that_arrived_though_the_answer_was_lost_is_submitted_once(
    aws: SageMakerDouble,
) -> None:
    aws.broken.add("CreateTrainingJob")
    assert client(aws).submit(request(aws)) == "tiny-1"
    assert aws.actions() == ["CreateTrainingJob"] * 2 and list(aws.jobs) == ["tiny-1"]


@pytest.mark.parametrize(
    ("code", "message", "cure"),
    [
        (
            "ExpiredTokenException",
            "expired",
            r"the temporary credentials have expired .*Fix: renew",
        ),
        (
            "UnrecognizedClientException",
            "invalid",
            r"AWS does not know these credentials .*Fix: check",
        ),
        (
            "InvalidSignatureException",
            "Signature expired: x",
            r"the clock of this machine is wrong",
        ),
        (
            "AccessDeniedException",
            "not authorized",
            r"the credentials may not do this .*Fix: extend their policy, as docs/pl",
        ),
        (
            "AccessDeniedException",
            f"iam:PassRole on {ROLE}",
            r"Fix: allow them iam:PassRole on role_arn",
        ),
        (
            "ResourceLimitExceeded",
            "limit is 0 Instances",
            r"the account's quota is used up .*Fix: request",
        ),
        (
            "ValidationException",
            f"Could not assume role {ROLE}. Please ensure that the role exists",
            r"role_arn: SageMaker may not assume the role .*Fix: name sagemaker.amazonaws.com",
        ),
        (
            "ValidationException",
            'No S3 objects found under S3 URL "s3://b/x" given in input data source',
            r"channels: there is nothing at this URI that role_arn may list",
        ),
        ("ValidationException", "Requested image x not found", r"image: ECR has no such image"),
        (
            "ValidationException",
            "1 validation error",
            r"AWS refuses the request \[ValidationExc.*1 valid",
        ),
    ],
)
def test_what_aws_refuses_comes_with_its_cure(
    code: str, message: str, cure: str, aws: SageMakerDouble
) -> None:
    aws.fails("CreateTrainingJob", code, message)
    with pytest.raises(JobError, match=rf"^tiny-1: .*{cure}") as caught:
        client(aws).submit(request(aws))
    assert caught.value.problem.endswith(f"[{code}: {message}]")


def test_keys_that_aws_does_not_know_are_named(aws: SageMakerDouble) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAOTHER", "AWS_SECRET_ACCESS_KEY": "x"}
    with pytest.raises(JobError, match="AWS does not know these credentials"):
        client(aws, keys=wrong).status("tiny-1")


def test_a_job_that_is_not_there_is_named(aws: SageMakerDouble) -> None:
    for ask in (
        client(aws).status,
        client(aws).stop,
        lambda job: next(client(aws).logs(job, True)),
    ):
        with pytest.raises(JobError, match=r"tiny-9: there is no such job in this account and reg"):
            ask("tiny-9")


@pytest.mark.slow
@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("Odd", 500)])
def test_a_busy_service_is_asked_again_and_then_given_up(
    code: str, status: int, aws: SageMakerDouble
) -> None:
    connected = started(aws)
    aws.fails("DescribeTrainingJob", code, "Rate exceeded", status, times=3)
    assert connected.status("tiny-1").state == "waiting"
    aws.fails("DescribeTrainingJob", code, "Rate exceeded", status, times=4)
    with pytest.raises(
        StoreUnavailable, match=r"tiny-1: AWS is throttling requests .*Fix: try again in a mi"
    ):
        connected.status("tiny-1")


def test_a_service_that_does_not_answer_is_unavailable(
    aws: SageMakerDouble, absent_uri: str
) -> None:
    connected = client(aws, f"endpoint_urls.sagemaker={absent_uri}")
    cure = (
        r"tiny-1: AWS \(sagemaker\) is unreachable .*Fix: check the network, the profile's region"
    )
    with pytest.raises(StoreUnavailable, match=cure):
        connected.status("tiny-1")


def test_without_credentials_the_variables_are_named(
    aws: SageMakerDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_keys(monkeypatch, tmp_path)
    with pytest.raises(
        JobError, match=r"tiny-1: there are no credentials for AWS .*Fix: set AWS_PROF"
    ):
        client(aws, keys={}).status("tiny-1")


def test_a_profile_that_is_not_there_is_named(
    aws: SageMakerDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_keys(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    with pytest.raises(JobError, match=r"AWS_PROFILE: .*mine.*Fix: see ~/.aws/config"):
        client(aws, keys={}).status("tiny-1")


def test_an_expired_login_is_named(
    aws: SageMakerDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_keys(monkeypatch, tmp_path)
    (tmp_path / "config").write_text(
        "[profile mine]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\n"
        "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://example.invalid\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        JobError, match=r"tiny-1: the temporary credentials have expired .*Fix: renew"
    ):
        client(aws, keys={}).status("tiny-1")


def test_what_boto3_itself_refuses_is_passed_on(aws: SageMakerDouble) -> None:
    with pytest.raises(
        JobError, match=r"the request to AWS \(sagemaker\) failed: Parameter validation"
    ):
        client(aws).status("")
