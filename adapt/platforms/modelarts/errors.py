"""What ModelArts' answers mean: an exception of its SDK -> `JobError` with the cure, or
`StoreUnavailable`.

The gateway's codes (APIGW.) are documented one by one. The service's own codes for training jobs
are not, so those are told apart by the words of their message, and unknown ones are shown as they
are.
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
        "a quota of the account is used up: stop other jobs, ask for more, or take fewer nodes",
    ),
    (
        r"output.*(used|occupied)",
        "outputs: another job writes to that folder; wait for it, stop it, or name another folder",
    ),
    (
        r"(name|job).*(already|duplicate|in use|repeat)|ModelArts\.0103",
        "a job has that name already; submit again, which makes a new name",
    ),
    (r"flavor|specification", "flavor_id: not one of this region or pool"),
    (r"\bpool", "pool_id: not a pool of this project and region"),
    (r"image|swr", "image: not in SWR of this region, or the agency may not pull it"),
    (
        r"agency|authoriz|delegat",
        "ModelArts has no agency of yours yet, or one that may too little",
    ),
    (r"obs|bucket", "a folder in OBS is not there, is encrypted, or is of another region"),
    (r"workspace", "workspace_id: not a workspace that you may use"),
)
"""How a refusal's message reads, and what it comes to; the first that fits holds."""


class NotThere(JobError):
    """The job, the log or the pool that is asked for is not there."""


def explained(error: Exception, profile: ModelArtsProfile, endpoint: str) -> Exception:
    """The exception to raise instead of the SDK's."""
    from huaweicloudsdkcore.exceptions import exceptions

    if isinstance(error, exceptions.HostUnreachableException):
        return JobError(
            f"region: there is no host {endpoint}; expected a region that has ModelArts, got "
            f"{profile.region!r}, or its URL as endpoint"
        )
    if isinstance(error, exceptions.SslHandShakeException):
        return JobError(
            f"endpoint: {endpoint} shows no certificate that this machine trusts; expected https "
            f"without a proxy that changes it ({error.error_msg})"
        )
    if isinstance(error, exceptions.ServiceResponseException):
        return _answer(error, profile, endpoint)
    said = str(getattr(error, "error_msg", "") or error)
    return StoreUnavailable(f"{endpoint} does not answer; try again later ({said})")


def _answer(error: Any, profile: ModelArtsProfile, endpoint: str) -> Exception:
    said = f"{error.error_code}: {error.error_msg}"
    if error.status_code == THROTTLED:
        return StoreUnavailable(f"{endpoint} is asked too often; try again in a minute ({said})")
    if error.status_code >= 500:
        return StoreUnavailable(f"{endpoint} is out of order; try again later ({said})")
    if error.status_code in (401, 403):
        return JobError(_unauthorised(error.status_code, said, profile))
    if error.status_code == 404 and str(error.error_code).startswith("ModelArts."):
        return NotThere(f"ModelArts does not have it ({said})")
    if error.status_code == 404:
        return JobError(
            f"endpoint: {endpoint} has no training jobs of version 2; expected ModelArts of region "
            f"{profile.region!r} ({said})"
        )
    for pattern, meaning in REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return JobError(f"{meaning} ({said})")
    return JobError(f"ModelArts refuses the request ({said})")


def _unauthorised(status: int, said: str, profile: ModelArtsProfile) -> str:
    if re.search(r"expire|decrypt token|must be updated|APIGW\.0307", said, re.IGNORECASE):
        return (
            f"{profile.security_token_env}: the temporary keys have expired or are incomplete; get "
            f"new ones ({said})"
        )
    if status == 401 or "APIGW.0301" in said:
        return (
            f"{profile.access_key_env}, {profile.secret_key_env}: expected keys of an account in "
            f"good standing, and {profile.security_token_env} with temporary ones alone; after "
            f"five failures they are locked for five minutes ({said})"
        )
    project = profile.project_id or f"that {profile.project_id_env} names"
    return (
        f"{profile.access_key_env}: expected a user who may train with ModelArts in the project "
        f"{project}; ask the account's administrator ({said})"
    )
