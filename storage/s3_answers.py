"""What S3 stores answer when they refuse, and what the user can do about it; where credentials come
from.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from storage.store import StoreConfig, StoreError

_SDK_CHAIN = "the SDK's own chain (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profile or role)"
ABSENT = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")
"""Error codes of an object, or its bucket, that is not there."""

TRANSIENT = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "BadDigest",
)
"""Error codes that pass, beside every status from 500 on."""

_WRONG_KEYS = "the store refuses the credentials; they come from {credentials}"
_DENIED = (
    "access denied: the credentials are wrong or lack a right here; they come from {credentials}"
)
_WRONG_REGION = "the bucket lies in another region; check stores.{scheme}.region and .endpoint_url"
PATH_REFUSED = (
    "the store refuses the bucket's name in the path; set stores.{scheme}.addressing to virtual"
)
CURES: Mapping[str, str] = MappingProxyType(
    {
        "NoSuchBucket": "there is no bucket {bucket!r} at {endpoint}; check the URI and "
        "stores.{scheme}, or create the bucket",
        "InvalidAccessKeyId": _WRONG_KEYS,
        "SignatureDoesNotMatch": _WRONG_KEYS,
        "InvalidToken": _WRONG_KEYS,
        "InvalidSecurity": _WRONG_KEYS,
        "ExpiredToken": "the temporary credentials have expired; they come from {credentials}",
        "AccessDenied": _DENIED,
        "403": _DENIED,
        "RequestTimeTooSkewed": "this machine's clock is wrong; the store refuses its signatures",
        "SecondLevelDomainForbidden": PATH_REFUSED,
        "VirtualHostDomainRequired": PATH_REFUSED,
        "PermanentRedirect": _WRONG_REGION,
        "AuthorizationHeaderMalformed": _WRONG_REGION,
        "301": _WRONG_REGION,
        "InvalidBucketName": "{bucket!r} is no name of a bucket",
        "InvalidRange": "the object is shorter than asked",
    }
)
"""Error code of an answer -> what to do, for codes that no repetition mends."""


class Keys(NamedTuple):
    """Credentials, or None for the SDK's own chain; `source` says in words where they come from."""

    source: str
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None


def find_keys(scheme: str, config: StoreConfig, environment: Mapping[str, str]) -> Keys:
    """The keys that `config` names. Raises `StoreError` for a variable that is not set."""
    names = (config.access_key_env, config.secret_key_env, config.session_token_env)
    if config.access_key_env is None:
        return Keys(_SDK_CHAIN)
    for field, name in zip(
        ("access_key_env", "secret_key_env", "session_token_env"), names, strict=True
    ):
        if name is not None and not environment.get(name):
            raise StoreError(
                f"stores.{scheme}.{field}: the environment variable {name!r} is not set or empty"
            )
    used = [name for name in names if name is not None]
    values = [None if name is None else environment[name] for name in names]
    return Keys(f"the environment variables {', '.join(used)}", *values)
