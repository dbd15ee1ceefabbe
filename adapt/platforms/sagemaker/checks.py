"""Checks of a SageMaker job before it costs anything: credentials, role, image, buckets, quota. One
finding each; where the credentials may not read an object, the finding reports that."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from adapt.errors import JobError
from adapt.platforms.platform import Finding, Request
from adapt.platforms.sagemaker.errors import aws_errors
from adapt.platforms.sagemaker.profile import IMAGE, SageMakerProfile
from storage.errors import StoreError, StoreUnavailable
from storage.uris import split_uri


class Apis(Protocol):
    """The boto3 clients, by service."""

    def api(self, service: str) -> Any:
        """The client of `service`."""


def findings(apis: Apis, profile: SageMakerProfile, request: Request) -> Iterator[Finding]:
    """One line for each object that was checked."""
    account = ""
    identity = _found("credentials", partial(_identity, apis))
    yield identity
    if not identity.ok:
        return  # nothing else can be requested
    account = identity.found.split()[1]
    yield _role(account, request["RoleArn"])
    image = request["AlgorithmSpecification"]["TrainingImage"]
    yield _found("image", partial(_image, apis, image))
    for bucket in _buckets(request):
        yield _found(f"bucket {bucket}", partial(_bucket, apis, profile, bucket))
    yield _found("quota", partial(_quota, apis, profile))


def _found(what: str, check: Callable[[], str]) -> Finding:
    """The result of `check`, or the error that it raised."""
    try:
        return Finding(what, True, check())
    except (JobError, StoreError) as error:
        found = error.problem.removeprefix(f"{what}: ")
        return Finding(what, False, found, error.fix, error.exit_code)


def _identity(apis: Apis) -> str:
    with aws_errors("credentials", "sts"):
        caller = apis.api("sts").get_caller_identity()
    return f"account {caller['Account']} as {caller['Arn']}"


def _role(account: str, arn: str) -> Finding:
    theirs = arn.split(":")[4]
    if theirs != account:
        found = f"role_arn: of account {theirs}, the credentials of {account}"
        return Finding("role", False, found, "name a role of the account of the credentials")
    return Finding("role", True, arn)


def _image(apis: Apis, image: str) -> str:
    from botocore.exceptions import ClientError

    match = IMAGE.fullmatch(image)
    assert match is not None, "the profile was checked"
    digest, tag = match["digest"], match["tag"] or "latest"
    with aws_errors("image", "ecr"):
        try:
            answer = apis.api("ecr").describe_images(
                registryId=match["account"],
                repositoryName=match["repository"],
                imageIds=[{"imageDigest": digest} if digest else {"imageTag": tag}],
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in ("ImageNotFoundException", "RepositoryNotFoundException"):
                raise
            known = "repository" if code.startswith("Repo") else f"tag {digest or tag} in it"
            raise JobError(
                f"image: ECR has no such {known} [{error.response['Error']['Message']}]",
                "push the image, or correct image in the profile",
            ) from error
    details = answer["imageDetails"][0]
    return f"{details.get('imageSizeInBytes', 0) / 1e9:.1f} GB, {details['imageDigest'][:19]}"


def _buckets(request: Request) -> list[str]:
    """The buckets that SageMaker itself reads and writes."""
    uris = [request["OutputDataConfig"]["S3OutputPath"]]
    uris += [request["CheckpointConfig"]["S3Uri"]] if "CheckpointConfig" in request else []
    for channel in request.get("InputDataConfig", []):
        uris.append(channel["DataSource"]["S3DataSource"]["S3Uri"])
    return list(dict.fromkeys(split_uri(uri)[1].partition("/")[0] for uri in uris))


def _bucket(apis: Apis, profile: SageMakerProfile, bucket: str) -> str:
    from botocore.exceptions import ClientError

    what, seen = f"bucket {bucket}", ""
    with aws_errors(what, "s3"):
        try:
            answer = apis.api("s3").head_bucket(Bucket=bucket)
        except ClientError as error:
            answer, code = error.response, error.response["Error"]["Code"]
            if code == "404":
                raise JobError(
                    f"{what}: there is no such bucket [{code}]",
                    f"correct the URI, or create the bucket in {profile.region}",
                ) from error
            if code != "403":
                raise
            seen = " (not listed: of the credentials only role_arn's need that right)"
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    region = headers.get("x-amz-bucket-region", profile.region)
    if region != profile.region:
        raise JobError(
            f"{what}: expected a bucket in the job's region, {profile.region}, got {region}",
            f"use one in {profile.region}, or submit the job in {region}",
        )
    return f"in {region}{seen}"


def _quota(apis: Apis, profile: SageMakerProfile) -> str:
    kind = "spot training job usage" if profile.spot else "training job usage"
    name = f"{profile.instance_type} for {kind}"
    try:
        with aws_errors("quota", "service-quotas"):
            pages = apis.api("service-quotas").get_paginator("list_service_quotas")
            found = [
                quota["Value"]
                for page in pages.paginate(ServiceCode="sagemaker")
                for quota in page["Quotas"]
                if quota["QuotaName"] == name
            ]
    except (JobError, StoreUnavailable) as error:
        return f"not known: {error.problem}"
    if not found:
        return f"not known: AWS names no quota {name!r}"
    if found[0] < profile.nodes:
        raise JobError(
            f"quota: expected {profile.nodes} or more of {name!r}, got {found[0]:g}",
            "request more in Service Quotas, or take another instance_type or fewer nodes",
        )
    return f"{found[0]:g} of {name!r}"
