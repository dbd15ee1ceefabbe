"""Credentials of a store: their source, and how they are refreshed."""

from collections.abc import Mapping
from typing import NamedTuple

from storage.config import StoreConfig
from storage.errors import StoreError

_SDK_CHAIN = "the SDK's own chain (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profile or role)"


_SDK_FIX = "let a role, web identity or credential_process provide them, which renews them"


class Keys(NamedTuple):
    """Credentials, or None for the SDK's own chain; `source` and `refreshing` describe for messages
    where they come from and how to have them refreshed."""

    source: str
    refreshing: str
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None


def find_keys(name: str, config: StoreConfig, environment: Mapping[str, str]) -> Keys:
    """The keys that `config`, called `name`, names. Raises `StoreError` for a variable that is not
    set."""
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
    values = [None if variable is None else environment[variable] for variable in variables]
    return Keys(f"the environment variables {used}", fix, *values)
