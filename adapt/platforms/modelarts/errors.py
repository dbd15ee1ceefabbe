"""ModelArts' errors: an exception of its SDK -> `JobError` with its fix, or `StoreUnavailable`.

The gateway's codes (APIGW.) are documented one by one. The service's own codes for training jobs
are not, so those are distinguished by their message, and unknown ones are shown as they are.
"""

import re
from typing import Any

from adapt.errors import JobError
from adapt.platforms.modelarts.profile import ModelArtsProfile
from storage.errors import StoreUnavailable

THROTTLED = 429

REFUSALS = (
    (
        r"quota|ModelArts\.0116",
        "quota: a quota of the account is used up",
        "stop other jobs, request a larger quota, or take fewer nodes",
    ),
    (
        r"output.*(used|occupied)",
        "outputs: another job writes to that folder",
        "wait for it, stop it, or name another folder",
    ),
    (
        r"(name|job).*(already|duplicate|in use|repeat)|ModelArts\.0103",
        "name: a job has that name already",
        "submit again, which makes a new name",
    ),
    (
        r"flavor|specification",
        "flavor_id: not one of this region or pool",
        "name one that `check` lists",
    ),
    (
        r"\bpool",
        "pool_id: not a pool of this project and region",
        "copy the id from the console's page of dedicated pools",
    ),
    (
        r"image|swr",
        "image: not in SWR of this region, or the agency may not pull it",
        "push it to SWR of this region, or let the agency read SWR",
    ),
    (
        r"agency|authoriz|delegat",
        "agency: ModelArts has no agency of yours yet, or one with too few rights",
        "grant one on the console's page of permissions",
    ),
    (
        r"obs|bucket",
        "inputs, outputs: a folder in OBS is missing, is encrypted, or is of another region",
        "correct its URI, or make it in this region without encryption",
    ),
    (
        r"workspace",
        "workspace_id: not a workspace that you may use",
        "name another, or remove the key",
    ),
)
"""A pattern of a refusal's message, the problem and its fix; the first match counts."""


class NotThere(JobError):
    """The requested job, log or pool does not exist."""


def explained(error: Exception, profile: ModelArtsProfile, endpoint: str) -> Exception:
    """The exception to raise instead of the SDK's."""
    from huaweicloudsdkcore.exceptions import exceptions

    if isinstance(error, exceptions.HostUnreachableException):
        return JobError(
            f"region: expected a region that has ModelArts, got {profile.region!r}: there is no "
            f"host {endpoint}",
            "correct region, or name its URL as endpoint",
        )
    if isinstance(error, exceptions.SslHandShakeException):
        return JobError(
            f"endpoint: {endpoint} shows no certificate that this machine trusts "
            f"({error.error_msg})",
            "use https without a proxy that changes the certificate",
        )
    if isinstance(error, exceptions.ServiceResponseException):
        return _answer(error, profile, endpoint)
    message = str(getattr(error, "error_msg", "") or error)
    return StoreUnavailable(f"{endpoint} is unreachable ({message})", "try again later")


def _answer(error: Any, profile: ModelArtsProfile, endpoint: str) -> Exception:
    message = f"{error.error_code}: {error.error_msg}"
    if error.status_code == THROTTLED:
        return StoreUnavailable(f"{endpoint}: too many requests ({message})", "wait a minute")
    if error.status_code >= 500:
        return StoreUnavailable(f"{endpoint} is out of order ({message})", "try again later")
    if error.status_code in (401, 403):
        return JobError(*_unauthorised(error.status_code, message, profile))
    if error.status_code == 404 and str(error.error_code).startswith("ModelArts."):
        return NotThere(f"ModelArts does not have it ({message})")
    if error.status_code == 404:
        return JobError(
            f"endpoint: {endpoint} has no training jobs of version 2 ({message})",
            f"name the endpoint of ModelArts in region {profile.region!r}",
        )
    for pattern, problem, fix in REFUSALS:
        if re.search(pattern, message, re.IGNORECASE):
            return JobError(f"{problem} ({message})", fix)
    return JobError(f"ModelArts refuses the request ({message})")


def _unauthorised(status: int, message: str, profile: ModelArtsProfile) -> tuple[str, str]:
    """The problem and its fix."""
    token = profile.security_token_env
    if re.search(r"expire|decrypt token|must be updated|APIGW\.0307", message, re.IGNORECASE):
        return (
            f"{token}: the temporary keys have expired or are incomplete ({message})",
            "renew them",
        )
    if status == 401 or "APIGW.0301" in message:
        return (
            f"{profile.access_key_env}, {profile.secret_key_env}: the keys are refused ({message})",
            f"use keys of an account in good standing, and {token} only with temporary ones; after "
            "five failures keys are locked for five minutes",
        )
    project = profile.project_id or f"that {profile.project_id_env} names"
    return (
        f"{profile.access_key_env}: this user may not train with ModelArts in the project "
        f"{project} ({message})",
        "get that right from the account's administrator",
    )
