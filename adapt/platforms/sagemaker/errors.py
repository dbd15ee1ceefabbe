"""Errors of boto3 and AWS -> `JobError` or `StoreUnavailable`, with their fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from adapt.errors import JobError
from storage.errors import StoreUnavailable
from storage.transient import CODES, is_final, is_transient_status

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_POLICY = "as docs/platforms/sagemaker.md shows"


class Problem(NamedTuple):
    """A problem that AWS reports, and its fix."""

    problem: str
    fix: str


PROBLEMS = {
    "ExpiredToken": Problem(
        "the temporary credentials have expired", "renew them, as with `aws sso login`"
    ),
    "UnknownKeys": Problem(
        "AWS does not know these credentials",
        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE",
    ),
    "AccessDenied": Problem("the credentials may not do this", f"extend their policy, {_POLICY}"),
    "PassRole": Problem(
        "the credentials may not hand the role over",
        f"allow them iam:PassRole on role_arn, {_POLICY}",
    ),
    "ResourceLimitExceeded": Problem(
        "the account's quota is used up",
        "request a larger one in Service Quotas, or take another instance_type, fewer nodes, or "
        "spot machines, which have a quota of their own",
    ),
    "ResourceInUse": Problem(
        "there is a job of this name already", "submit again, which makes a new name"
    ),
    "Role": Problem(
        "role_arn: SageMaker may not assume the role",
        f"name sagemaker.amazonaws.com as principal in its trust policy, {_POLICY}",
    ),
    "NoObjects": Problem(
        "channels: there is nothing at this URI that role_arn may list",
        "check the URI, its region and the role's policy",
    ),
    "Image": Problem("image: ECR has no such image", "push it, or correct the tag"),
    "Absent": Problem("there is no such job in this account and region", "see `jobs`"),
    "Clock": Problem("the clock of this machine is wrong", "set it"),
    "Busy": Problem("AWS is throttling requests", "try again in a minute"),
    "Unreachable": Problem(
        "is unreachable", "check the network, the profile's region and endpoint_urls"
    ),
}
_CODES = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired"), "ExpiredToken"),
    **dict.fromkeys(
        (
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "MissingAuthenticationTokenException",
            "IncompleteSignature",
        ),
        "UnknownKeys",
    ),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException"), "AccessDenied"),
    "ResourceLimitExceeded": "ResourceLimitExceeded",
    "ResourceInUse": "ResourceInUse",
    "ResourceNotFound": "Absent",
    **dict.fromkeys(CODES, "Busy"),
}
_MESSAGES = {
    "iam:PassRole": "PassRole",
    "Could not assume role": "Role",
    "No S3 objects found": "NoObjects",
    "Requested image": "Image",
    "Requested resource not found": "Absent",
    "Could not find requested job": "Absent",
    "Signature expired": "Clock",
    "Signature not yet current": "Clock",
}
"""By a part of the message, where the code is too general."""


@contextmanager
def aws_errors(what: str, service: str) -> Iterator[None]:
    """Errors of boto3 inside become `JobError` or `StoreUnavailable` that begin with `what`, with
    AWS's own message at the end."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _of_answer(what, error.response) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise JobError(
            f"{what}: there are no credentials for AWS [{error}]",
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error
    except (aws.SSOError, aws.CredentialRetrievalError, aws.TokenRetrievalError) as error:
        problem, fix = PROBLEMS["ExpiredToken"]
        raise JobError(f"{what}: {problem} [{error}]", fix) from error
    except aws.ProfileNotFound as error:
        raise JobError(f"{what}: AWS_PROFILE: {error}", "see ~/.aws/config") from error
    except (aws.ConnectionError, aws.HTTPClientError) as error:
        problem, fix = PROBLEMS["Unreachable"]
        kind = JobError if is_final(error) else StoreUnavailable
        raise kind(f"{what}: AWS ({service}) {problem} [{error}]", fix) from error
    except aws.BotoCoreError as error:
        raise JobError(f"{what}: the request to AWS ({service}) failed: {error}") from error


def is_absent(error: "ClientError") -> bool:
    """Return whether an answer is that there is no such job."""
    return _why(*_said(error.response)) == "Absent"


def _said(response: object) -> tuple[str, str]:
    """Code and message of an answer."""
    assert isinstance(response, dict), "botocore's errors hold the answer"
    error = response.get("Error", {})
    return str(error.get("Code", "")), str(error.get("Message", ""))


def _why(code: str, message: str) -> str | None:
    return next((why for part, why in _MESSAGES.items() if part in message), _CODES.get(code))


def _of_answer(what: str, response: object) -> JobError | StoreUnavailable:
    assert isinstance(response, dict), "botocore's errors hold the answer"
    code, message = _said(response)
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    why = _why(code, message)
    if why is None and is_transient_status(status):
        why = "Busy"
    if why is None:
        return JobError(f"{what}: AWS refuses the request [{code}: {message}]")
    problem, fix = PROBLEMS[why]
    kind = StoreUnavailable if why == "Busy" else JobError
    return kind(f"{what}: {problem} [{code}: {message}]", fix)
