"""Credentials of a store: their source, and how they are refreshed."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from storage.config import StoreConfig
from storage.errors import StoreError

_SDK_CHAIN = "the SDK's own chain (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profile or role)"


_SDK_FIX = "let a role, web identity or credential_process provide them, which renews them"


_AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_KEY = re.compile(r"[!-~]+")


class Keys(NamedTuple):
    """Credentials, or None for the SDK's own chain; `source` and `refreshing` describe for messages
    where they come from and how to have them refreshed."""

    source: str
    refreshing: str
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None


def find_keys(
    name: str, config: StoreConfig, environment: Mapping[str, str], free_text: bool = False
) -> Keys:
    """The keys that `config`, called `name`, names. Line ends around them, as of files, are left
    out; so are blanks, unless they are `free_text` as passwords of web servers are.

    Raises `StoreError` for a variable that is not set, or that cannot be a key."""
    fields = ("access_key_env", "secret_key_env", "session_token_env")
    variables = [getattr(config, field) for field in fields]
    if config.access_key_env is None:
        return Keys(_SDK_CHAIN, _SDK_FIX)
    for field, variable in zip(fields, variables, strict=True):
        if variable is not None and not environment.get(variable):
            raise StoreError(
                f"{name}.{field}: the environment variable {variable!r} is not set or empty",
                fix="export it before starting the job",
            )
    used = ", ".join(variable for variable in variables if variable is not None)
    fix = f"remove {name}.access_key_env, as such keys cannot be refreshed, and {_SDK_FIX}"
    values = [environment.get(variable or "", "").strip("\r\n") for variable in variables]
    if not free_text:
        values = [value.strip() for value in values]
        for field, variable, value in zip(fields, variables, values, strict=True):
            if variable is not None and not _KEY.fullmatch(value):
                raise StoreError(
                    f"{name}.{field}: expected a key in the environment variable {variable!r}, "
                    "without blanks and of ASCII characters, got another text",
                    fix="copy it again from the store's console",
                )
    return Keys(f"the environment variables {used}", fix, *(value or None for value in values))


def sdk_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys in AWS's own variables without blanks around them, where they have such, which the
    SDK would sign with; nothing otherwise."""
    found = [environment.get(name, "") for name in _AWS]
    bare = [value.strip() for value in found]
    return tuple(bare) if found != bare and bare[0] and bare[1] else ()
