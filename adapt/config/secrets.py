"""Secrets where names belong: values that look like keys, tokens or passwords are refused.

A spec is saved with the results, in MLflow, in images' environments and in logs. The message names
the key and the kind of secret, never the value.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from adapt.errors import JobError

_PRIVATE = "a private key"
_KINDS = {
    "an AWS access key": re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{12,}"),
    _PRIVATE: re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "the key of a storage account": re.compile(
        r"(?i:AccountKey|SharedAccessSignature)=[^;\s]{8}|[A-Za-z0-9+/]{86}=="
    ),
    "a token": re.compile(
        r"(?<![A-Za-z0-9])(?:gh[pousr]_\w{30}|github_pat_\w{20}|glpat-[\w-]{20}|hf_[A-Za-z0-9]{20}"
        r"|AIza[\w-]{35}|xox[abprs]-[\w-]{10}|sk-[\w-]{20}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.)"
    ),
    "a secret key": re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
}
"""Kind of secret -> its form. Secret keys of AWS and OBS are 40 random letters, digits and signs; a
path may have as many."""

_LOGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s?#]*:[^/@\s?#]*@")
_NO_END = re.compile(r"[^\s'\";,)\]]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OBS_KEY = re.compile(r"(?=(?:.*[0-9]){2})[A-Z0-9]{20}")
_RANDOM_BITS, _RANDOM_CHANGES = 4.4, 12
_USE_VARIABLES = (
    "put it into an environment variable and name that (stores.KEY.access_key_env and "
    ".secret_key_env); change it, as this file may have been shared"
)
_USE_VARIABLES_FOR_LOGINS = (
    "put them into environment variables (named by stores.KEY.access_key_env and .secret_key_env; "
    "for MLflow MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
)


def refuse_secrets(values: Any) -> None:
    """Raise `JobError` for the first value, or key, that looks like a secret, by its key path."""
    for path, text in _texts(values, ""):
        name = path or "values"
        if _LOGIN.search(text):
            raise JobError(
                f"{name}: expected a URI without user and password, got one with them",
                fix=_USE_VARIABLES_FOR_LOGINS,
            )
        kind = _kind(text)
        if kind is not None:
            raise JobError(
                f"{name}: expected no secret, got what looks like {kind}", fix=_USE_VARIABLES
            )
        if path.endswith("_env") and (not _VARIABLE.fullmatch(text) or _OBS_KEY.fullmatch(text)):
            raise JobError(
                f"{name}: expected the name of an environment variable, got another text",
                fix=_USE_VARIABLES,
            )


def without_secrets(text: str) -> str:
    """A message with the kind of each secret in the secret's place; what follows a secret without a
    blank is left out with it, after a private key's first line all."""
    text = _LOGIN.sub("[user and password]@", text)
    for start, secret, kind in sorted(_found(text), reverse=True):
        rest = text[start + len(secret) :]
        tail = len(rest) if kind == _PRIVATE else _NO_END.match(rest).end()  # type: ignore[union-attr]
        text = f"{text[:start]}[{kind}]{rest[tail:]}"
    return text


def _kind(text: str) -> str | None:
    """The kind of secret that a text contains, if any."""
    return next((kind for _, _, kind in _found(text)), None)


def _found(text: str) -> Iterator[tuple[int, str, str]]:
    """Where each secret in a text begins, its beginning, and its kind."""
    for kind, form in _KINDS.items():
        for match in form.finditer(text):
            if kind != "a secret key" or _is_random(match[0]):
                yield match.start(), match[0], kind


def _is_random(text: str) -> bool:
    """Return whether a text is no path of words: many characters, kinds of them in turn."""
    counts = Counter(text).values()
    bits = -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
    kinds = [_sort(char) for char in text]
    changes = sum(one != other for one, other in pairwise(kinds))
    mixed = {"lower", "upper"} <= set(kinds)
    path = text.count("/") >= 2 and len(re.findall(r"[a-z]{4}", text)) >= 2
    return mixed and not path and bits >= _RANDOM_BITS and changes >= _RANDOM_CHANGES


def _sort(char: str) -> str:
    if char.isdigit():
        return "digit"
    return "lower" if char.islower() else "upper" if char.isupper() else "sign"


def _texts(values: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in plain values with its key path; of a key itself, with the path around it."""
    if isinstance(values, str):
        yield path, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield path, str(key)
            yield from _texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from _texts(value, f"{path}.{number}")
