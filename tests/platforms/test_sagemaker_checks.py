"""The checks of SageMaker before a job is sent."""

from adapt.platforms.platform import Finding
from tests.platforms.sagemaker_double import SageMakerDouble
from tests.platforms.sagemaker_jobs import ROLE, client, profile, request


def check(aws: SageMakerDouble, *overrides: str) -> dict[str, Finding]:
    asked = request(aws, "tiny-1", *overrides)
    return {one.what: one for one in client(aws, *overrides).check(asked)}


def test_a_check_names_credentials_role_image_bucket_and_quota(aws: SageMakerDouble) -> None:
    found = check(aws)
    assert all(one.ok for one in found.values())
    assert {what: one.found for what, one in found.items()} == {
        "credentials": "account 111122223333 as arn:aws:iam::111122223333:user/me",
        "role": ROLE,
        "image": "6.5 GB, sha256:aaaaaaaaaaaa",
        "bucket my-bucket": "in us-east-1",
        "quota": "2 of 'ml.g5.2xlarge for spot training job usage'",
    }


def test_a_check_asks_for_every_bucket_that_sagemaker_uses(aws: SageMakerDouble) -> None:
    aws.buckets["data"] = "us-east-1"
    uris = ("checkpoint_uri=s3://data/c", "channels.source={uri: s3://my-bucket/a}")
    assert {"bucket my-bucket", "bucket data"} <= check(aws, *uris).keys()


def test_a_check_ends_where_credentials_fail(aws: SageMakerDouble) -> None:
    aws.fails("GetCallerIdentity", "ExpiredToken", "The security token is expired", 403)
    (only,) = check(aws).values()
    assert not only.ok and only.found.startswith("the temporary credentials have expired")
    assert only.found.endswith("[ExpiredToken: The security token is expired]")
    assert only.fix.startswith("renew them") and only.exit_code == 2


def test_a_check_without_a_network_ends_with_3(aws: SageMakerDouble, absent_uri: str) -> None:
    (only,) = check(aws, f"endpoint_urls.sts={absent_uri}").values()
    assert not only.ok and only.exit_code == 3 and "is unreachable" in only.found


def test_a_role_of_another_account_is_found(aws: SageMakerDouble) -> None:
    found = check(aws, "role_arn=arn:aws:iam::999999999999:role/segadapt")["role"]
    assert not found.ok and "of account 999999999999" in found.found
    assert found.found.startswith("role_arn: of account ")
    assert found.fix == "name a role of the account of the credentials"


def test_a_missing_image_is_found(aws: SageMakerDouble) -> None:
    aws.images["segadapt"] = ["0.2.0"]
    found = check(aws)["image"]
    assert not found.ok and found.found.startswith("ECR has no such tag 0.1.0 in it [")
    assert found.fix.startswith("push the image")
    aws.images.clear()
    found = check(aws)["image"]
    assert not found.ok and found.found.startswith("ECR has no such repository [")


def test_an_image_may_be_named_by_its_digest(aws: SageMakerDouble) -> None:
    digest = "sha256:" + "a" * 64
    assert check(aws, f"image={profile(aws.url).image.rpartition(':')[0]}@{digest}")["image"].ok


def test_who_may_not_look_at_the_image_is_told(aws: SageMakerDouble) -> None:
    aws.fails("DescribeImages", "AccessDeniedException", "not authorized")
    found = check(aws)["image"]
    assert not found.ok and found.found.startswith("the credentials may not do this")


def test_a_bucket_that_is_absent_or_elsewhere_is_found(aws: SageMakerDouble) -> None:
    aws.buckets["my-bucket"] = "eu-west-1"
    found = check(aws)["bucket my-bucket"]
    assert not found.ok
    assert found.found == "expected a bucket in the job's region, us-east-1, got eu-west-1"
    aws.buckets.clear()
    found = check(aws)["bucket my-bucket"]
    assert not found.ok and found.found.startswith("there is no such bucket")
    assert found.fix.startswith("correct the URI, or create")


def test_a_bucket_that_only_the_role_may_read_is_fine(aws: SageMakerDouble) -> None:
    aws.forbidden.add("my-bucket")
    found = check(aws)["bucket my-bucket"]
    assert found.ok
    assert found.found.endswith("(not listed: of the credentials only role_arn's need that right)")


def test_a_quota_that_is_too_small_is_found(aws: SageMakerDouble) -> None:
    found = check(aws, "nodes=3")["quota"]
    assert not found.ok and found.found.endswith(", got 2")
    assert found.found.startswith("expected 3 or more of 'ml.g5.2xlarge for spot tr")
    assert found.fix.startswith("request more in Service Quotas")


def test_a_quota_that_nobody_tells_is_no_failure(aws: SageMakerDouble) -> None:
    aws.fails("ListServiceQuotas", "AccessDeniedException", "not authorized")
    found = check(aws)["quota"]
    assert found.ok and found.found.startswith("not known: quota: the credentials may not do")
    aws.quotas = {"other": 1.0}
    assert check(aws)["quota"].found.startswith("not known: AWS names no quota 'ml.g5.2xl")
