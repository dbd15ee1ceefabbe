"""`stores:` of a job spec: the settings of each store, and which entry holds for a URI.

A key is a scheme (`s3`) or the beginning of URIs (`s3://bucket`, `s3://bucket/prefix`). The longest
key that a URI begins with holds for it, compared by whole names between slashes, so that two
buckets of one job may have different credentials.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.errors import StoreError
from storage.uris import without_password


class StoreConfig(BaseModel):
    """Settings of the stores of one key of `stores`. Secrets stay in environment variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#\s]+/?$",
        description="URL of the service, without the bucket "
        "(`https://obs.REGION.myhuaweicloud.com`); none = the cloud's own (for s3, AWS or the "
        "value of AWS_ENDPOINT_URL_S3). Required for obs.",
    )
    region: str | None = Field(
        default=None,
        description="Region that requests are signed for; none = the SDK's own configuration.",
    )
    addressing: Literal["auto", "virtual", "path"] = Field(
        default="auto",
        description="Position of the bucket (for az, of the account) in a request: in the host "
        "(`virtual`) or in the path; `auto` = virtual for obs, which refuses paths, and for az, "
        "and the SDK's choice for s3.",
    )
    checksums: Literal["when_required", "when_supported"] = Field(
        default="when_required",
        description="Checksums that the SDK of s3 and obs adds to requests; stores other "
        "than AWS may refuse them or store them inside the object (botocore >= 1.36).",
    )
    sign_uploads: bool | None = Field(
        default=None,
        description="Sign the bytes of uploads too, which costs a SHA-256 of "
        "them; none = over http alone, as TLS protects them too.",
    )
    access_key_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable with the access key (for az the account's name, for "
        "https the user's); none = the SDK's own chain (AWS_ACCESS_KEY_ID, profile, role, web "
        "identity), which alone refreshes temporary keys.",
    )
    secret_key_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable with the secret key (for az the account's key, for https "
        "the password); none = the SDK's own chain.",
    )
    session_token_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable with the token of temporary keys; none = no token.",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=20, description="Attempts of one operation before it fails."
    )
    connect_timeout_s: float = Field(
        default=5, gt=0, le=3600, description="Longest wait for a connection, in seconds."
    )
    read_timeout_s: float = Field(
        default=10, gt=0, le=3600, description="Longest silence inside of an answer, in seconds."
    )

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Self:
        if (self.access_key_env is None) != (self.secret_key_env is None):
            pair = ("access_key_env", "secret_key_env")
            unset, given = sorted(pair, key=lambda key: getattr(self, key) is not None)
            raise ValueError(f"{unset}: missing, expected it with {given}")
        if self.session_token_env is not None and self.access_key_env is None:
            raise ValueError(
                "access_key_env: missing, expected it and secret_key_env with session_token_env"
            )
        return self


def sdk_endpoint(environment: Mapping[str, str]) -> str | None:
    """The endpoint of S3 in AWS's own variables; None where they have none. Raises `StoreError`
    for one without its scheme, which the SDK does not take."""
    for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        value = environment.get(variable)
        if value and not re.fullmatch(r"https?://[^/?#\s]+\S*", value):
            shown = without_password(value)
            raise StoreError(
                f"{variable}: expected https://HOST or http://HOST:PORT, got {shown!r}",
                fix="write it with its scheme, without blanks",
            )
        if value:
            return value
    return None


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


_EXPECTED = "a scheme as `s3`, or how URIs begin, as `s3://BUCKET` or `s3://BUCKET/PREFIX`"


def fitting_key(uri: str, keys: Iterable[str]) -> str | None:
    """The key of `keys` that holds for a URI; None where none does."""
    names = _names(uri) if "://" in uri else ["file"]
    fitting = [key for key in keys if names[: len(_names(key))] == _names(key)]
    return max(fitting, key=lambda key: len(_names(key)), default=None)


def key_fault(key: str, schemes: Iterable[str]) -> str | None:
    """The fault of a key of `stores`, as `KEY: expected ..., got ...`; None for a right one."""
    scheme, mark, rest = key.partition("://")
    known = ", ".join(sorted(schemes))
    wrong = not _SCHEME.fullmatch(scheme) or (mark and not all(_clean(n) for n in rest.split("/")))
    if wrong:
        return f"{settings_name(key)}: expected {_EXPECTED}, got {key!r}"
    if scheme not in schemes:
        return (
            f"{settings_name(key)}: expected {_EXPECTED}, got the unknown scheme {scheme!r} "
            f"(known: {known})"
        )
    return None


def settings_name(key: str) -> str:
    """The name of a key in messages: `stores.s3`, `stores["s3://bucket"]`."""
    return f"stores.{key}" if _SCHEME.fullmatch(key) else f'stores["{key}"]'


def _names(uri: str) -> list[str]:
    scheme, _, rest = uri.partition("://")
    return [scheme.lower(), *(name for name in rest.split("/") if name)]


def _clean(name: str) -> bool:
    """Return whether this may be a bucket, host or part of a prefix; user names are no part of a
    key."""
    return name not in ("", ".", "..") and not re.search(r"[\s?#@\\]", name)
