"""What boto3 raises when AWS is asked for a job, as the errors that a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

from adapt.errors import JobError
from storage.errors import StoreUnavailable

_POLICY = "docs/platforms/sagemaker.md shows the policies"
CURES = {
    "ExpiredToken": "the temporary credentials have expired; get new ones, as with `aws sso login`",
    "UnknownKeys": "AWS does not know these credentials; check AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE",
    "AccessDenied": f"the credentials may not do this; {_POLICY}",
    "PassRole": "the credentials may not hand the role over: they need iam:PassRole on role_arn; "
    f"{_POLICY}",
    "ResourceLimitExceeded": "the account's quota is used up; ask for more in Service Quotas, or "
    "take another instance_type, fewer nodes, or (they have a quota of their own) spot machines",
    "ResourceInUse": "there is a job of this name already; submit again, which gives a new name",
    "Role": "role_arn: SageMaker may not take on the role; let its trust policy name "
    f"sagemaker.amazonaws.com as principal; {_POLICY}",
    "NoObjects": "channels: there is nothing at this URI that role_arn may list; check the URI, "
    "its region and the role's policy",
    "Image": "image: ECR has no such image; push it, or mend the tag",
    "Absent": "there is no such job in this account and region; see `jobs`",
    "Clock": "the clock of this machine is wrong; set it",
    "Busy": "AWS asks to slow down; try again in a minute",
    "Unreachable": "does not answer; check the network, the profile's region and endpoint_urls",
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
    **dict.fromkeys(
        (
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
            "RequestLimitExceeded",
            "ServiceUnavailable",
            "ServiceUnavailableException",
        ),
        "Busy",
    ),
}
_WORDS = {
    "iam:PassRole": "PassRole",
    "Could not assume role": "Role",
    "No S3 objects found": "NoObjects",
    "Requested image": "Image",
    "Requested resource not found": "Absent",
    "Signature expired": "Clock",
    "Signature not yet current": "Clock",
}
"""Of messages whose code says little."""


@contextmanager
def aws_errors(what: str, service: str) -> Iterator[None]:
    """What boto3 raises inside comes out as `JobError` or `StoreUnavailable` that begins with
    `what`, with AWS's own words at the end."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        raise _of_answer(what, error.response) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError) as error:
        raise JobError(
            f"{what}: there are no credentials for AWS; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY [{error}]"
        ) from error
    except (aws.SSOError, aws.CredentialRetrievalError, aws.TokenRetrievalError) as error:
        raise JobError(f"{what}: {CURES['ExpiredToken']} [{error}]") from error
    except aws.ProfileNotFound as error:
        raise JobError(f"{what}: AWS_PROFILE: {error}; see ~/.aws/config") from error
    except (aws.ConnectionError, aws.HTTPClientError) as error:
        cure = CURES["Unreachable"]
        raise StoreUnavailable(f"{what}: AWS ({service}) {cure} [{error}]") from error
    except aws.BotoCoreError as error:
        raise JobError(f"{what}: AWS ({service}) cannot be asked: {error}") from error


def _of_answer(what: str, response: object) -> JobError | StoreUnavailable:
    assert isinstance(response, dict), "botocore's errors hold the answer"
    code = str(response.get("Error", {}).get("Code", ""))
    message = str(response.get("Error", {}).get("Message", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    why = next((why for words, why in _WORDS.items() if words in message), _CODES.get(code))
    if why == "Busy" or (why is None and status >= 500):
        return StoreUnavailable(f"{what}: {CURES['Busy']} [{code}: {message}]")
    if why is None:
        return JobError(f"{what}: AWS refuses it [{code}: {message}]")
    return JobError(f"{what}: {CURES[why]} [{code}: {message}]")
