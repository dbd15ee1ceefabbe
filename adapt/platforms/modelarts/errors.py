"""ModelArts' errors: an exception of its SDK -> `JobError` with its fix, or `StoreUnavailable`.

The gateway's codes (APIGW.) are documented one by one; the service's own ones (ModelArts.) in the
appendix `Error Codes` of the API's reference. Nearly all of them come with HTTP status 400, also
those of a job or a log that is not there. Codes that no row has are distinguished by their message.
"""

import re
from typing import Any, NamedTuple

from adapt.errors import JobError
from adapt.platforms.modelarts.profile import ModelArtsProfile
from storage.errors import StoreUnavailable
from storage.transient import is_transient_status

THROTTLED = 429

NOT_THERE = ("2775", "2776", "2818")
"""A job that does not exist; a log that is not ready, or not generated yet."""

LOG_GONE = ("2819", "2820")
"""A log that was cleared, or whose folder is not found."""


class Refusal(NamedTuple):
    """A row of REFUSALS: the service's codes without their prefix, a pattern of the messages of
    other codes, the problem and its fix."""

    codes: tuple[str, ...]
    pattern: str
    problem: str
    fix: str


NONE = r"(?!)"
"""A pattern that no message matches."""

REFUSALS = (
    Refusal(
        ("0116", "0118", "2815", "2833"),
        r"quota",
        "quota: a quota of the account is used up",
        "stop other jobs, request a larger quota, or take fewer nodes",
    ),
    Refusal(
        (),
        r"output.*(used|occupied)",
        "outputs: another job writes to that folder",
        "wait for it, stop it, or name another folder",
    ),
    Refusal(
        ("0103", "2751"),
        r"(name|job).*(already|duplicate|in use|repeat)",
        "name: a job has that name already",
        "submit again, which makes a new name",
    ),
    Refusal(
        ("2793",),
        NONE,
        "nodes: more than this flavor has machines for",
        "lower nodes; `check` shows how many there are",
    ),
    Refusal(
        ("2763", "2781", "2840"),
        r"flavor|specification",
        "flavor_id: not one of this region or pool",
        "name one that `check` lists",
    ),
    Refusal(
        (),
        r"\bpool",
        "pool_id: not a pool of this project and region",
        "copy the id from the console's page of dedicated pools",
    ),
    Refusal(
        ("2845",),
        NONE,
        "image: larger than ModelArts takes",
        "build a smaller one, at most 30 GB",
    ),
    Refusal(
        ("2806", "2810", "2811"),
        r"image|swr",
        "image: not in SWR of this region, or the agency may not pull it",
        "push it to SWR of this region, or let the agency read SWR",
    ),
    Refusal(
        tuple(f"{code:04}" for code in range(420, 432)),
        r"agency|authoriz|delegat",
        "agency: ModelArts has no agency of yours yet, or one with too few rights",
        "grant one on the console's page of permissions",
    ),
    Refusal(
        ("1003", "2837"),
        NONE,
        "account: frozen, expired, or without rights on OBS",
        "check its balance and its rights in the console",
    ),
    Refusal(
        ("2771", "2804", "2823", "2838"),
        NONE,
        "rights: this user may not do it",
        "get that right from the account's administrator",
    ),
    Refusal(
        ("0204", "0210"),
        NONE,
        "project_id: not a project of this account and region",
        "copy it from the console's page My Credentials",
    ),
    Refusal(
        ("1002", "2773", "2791", "2835"),
        r"obs|bucket",
        "inputs, outputs: a folder in OBS is missing, is encrypted, or is of another region",
        "correct its URI, or make it in this region without encryption",
    ),
    Refusal(
        ("2753", "2754", "2834"),
        NONE,
        "inputs, outputs: ModelArts does not take these channels",
        "compare their folders and names with docs/platforms/modelarts.md",
    ),
    Refusal(
        ("0102",),
        r"workspace",
        "workspace_id: not a workspace that you may use",
        "name another, or remove the key",
    ),
)
"""A row that has the code counts, else the first whose pattern the message matches."""


class NotThere(JobError):
    """The requested job, log or pool does not exist, or not yet."""


class LogGone(JobError):
    """The log of a task exists no longer."""


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
    if is_transient_status(error.status_code):
        return StoreUnavailable(f"{endpoint} is out of order ({message})", "try again later")
    if error.status_code in (401, 403):
        return JobError(*_unauthorised(error.status_code, message, profile))
    service, _, code = str(error.error_code).rpartition(".")
    ours = service == "ModelArts"
    if ours and (error.status_code == 404 or code in NOT_THERE):
        return NotThere(f"ModelArts does not have it ({message})")
    if ours and code in LOG_GONE:
        return LogGone(f"ModelArts keeps no log of it ({message})", "set log_uri in the profile")
    if error.status_code == 404:
        return JobError(
            f"endpoint: {endpoint} has no training jobs of version 2 ({message})",
            f"name the endpoint of ModelArts in region {profile.region!r}",
        )
    for row in (row for row in REFUSALS if ours and code in row.codes):
        return JobError(f"{row.problem} ({message})", row.fix)
    for row in REFUSALS:
        if re.search(row.pattern, message, re.IGNORECASE):
            return JobError(f"{row.problem} ({message})", row.fix)
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
