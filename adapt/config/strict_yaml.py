"""A job spec as text, from a file, a store or a variable, with overrides: strict YAML in, one clear
line for a mistake out (`strict_loader`).
"""

import base64
import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from adapt.config.strict_loader import NotPlain, load
from adapt.errors import JobError, known_names, written
from storage.config import StoreConfig, sdk_endpoint
from storage.stores import Stores

IN_VARIABLE = "env:"
GZIP = b"\x1f\x8b"
MAX_BYTES = 1_000_000
"""Largest text of a spec."""


def parse_yaml(text: str, name: str) -> Any:
    """YAML text -> plain values.

    Raises `JobError` with `name` and the line.
    """
    try:
        return load(text)
    except NotPlain as error:
        line = f" line {error.line}:" if error.line and "\n" in text else ""
        raise JobError(f"{name}:{line} {error.problem}", error.fix) from error


def read_yaml(where: Path | str, environment: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The mapping in a YAML file, which may be the path of one, its URI in any store, or
    `env:VARIABLE`, a variable that holds it in base64, compressed by gzip or not.

    Raises `JobError` where there is none, `StoreError`.
    """
    name = str(where)
    try:
        content = _content(name, environment)
        if len(content) > MAX_BYTES:
            raise JobError(f"{name}: expected at most {MAX_BYTES} bytes, got more")
        text = content.decode("utf-8")
    except OSError as error:
        raise JobError(
            f"{name}: expected a file that can be read, got: {error.strerror}",
            fix="check the path and the rights of this user on it",
        ) from error
    except UnicodeDecodeError as error:
        raise JobError(
            f"{name}: expected text in UTF-8, got other bytes from byte {error.start} on",
            fix="save the file as UTF-8",
        ) from error
    values = parse_yaml(text, name)
    if not isinstance(values, dict):
        raise JobError(f"{name}: expected keys and values, got {_shape(values)}")
    return values


def _shape(values: Any) -> str:
    return "a list" if isinstance(values, list) else written(values)


def _content(name: str, environment: Mapping[str, str]) -> bytes:
    if name.startswith(IN_VARIABLE):
        variable = environment.get(name.removeprefix(IN_VARIABLE))
        if not variable:
            raise JobError(f"{name}: expected a job spec in this variable, got none", "export it")
        return unpacked(variable, name)
    if "://" in name:
        _, slash, key = name.partition("://")[2].rpartition("/")
        if not slash or not key:
            raise JobError(f"{name}: expected SCHEME://FOLDER/FILE, got no file")
        return _stores(name, environment).open(name.removesuffix(f"/{key}")).get(key)
    with Path(name).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _stores(name: str, environment: Mapping[str, str]) -> Stores:
    """Stores before any job spec says how to reach them: by AWS's own variables, for OBS too."""
    endpoint = sdk_endpoint(environment)
    if endpoint is None and name.startswith("obs://"):
        raise JobError(
            f"{name}: expected the endpoint of OBS in AWS_ENDPOINT_URL_S3, as "
            "https://obs.REGION.myhuaweicloud.com, got nothing"
        )
    try:
        settings = {"obs": StoreConfig(endpoint_url=endpoint)} if endpoint else {}
    except ValidationError as error:
        raise JobError(
            f"AWS_ENDPOINT_URL_S3: expected https://HOST without a path, got {endpoint!r}"
        ) from error
    return Stores(settings, environment)


def packed(text: str) -> str:
    """Text for a variable: gzip, then base64; the same text always gives the same."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpacked(text: str, name: str) -> bytes:
    """The text that `packed` packed, or plain base64. Raises `JobError` that names `name`."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
        if not content.startswith(GZIP):
            return content
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            return file.read(MAX_BYTES + 1)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise JobError(
            f"{name}: expected a job spec in base64, gzip or not, got: {error}"
        ) from error


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b.c=value` pairs, the value read as YAML; lists are reached by number, `a.0` or
    `a[0]`.

    Raises `JobError`.
    """
    changed: dict[str, Any] = deepcopy(dict(values))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
        if not equals:
            raise _no_override(override, "no value")
        if "" in keys:
            raise _no_override(path, f"an empty part {keys.index('') + 1} of {len(keys)}")
        _assign(changed, keys, parse_yaml(text, f"--set {path}"), path)
    return changed


def _no_override(path: str, got: str) -> JobError:
    return JobError(
        f"--set {path}: expected KEY.PATH=VALUE, got {got}", fix="write it as train.steps=500"
    )


def _assign(node: Any, keys: list[str], value: Any, path: str) -> None:
    for key in keys[:-1]:
        if isinstance(node, dict):
            if not isinstance(node.get(key), dict | list):
                node[key] = {}
            node = node[key]
        else:
            node = node[_place(node, key, path)]
    if isinstance(node, dict):
        node[keys[-1]] = value
    else:
        node[_place(node, keys[-1], path)] = value


def _place(node: Any, key: str, path: str) -> int:
    places = [str(number) for number in range(len(node))] if isinstance(node, list) else []
    if key not in places:
        raise JobError(f"--set {path}: expected the number of an entry, {known_names(key, places)}")
    return places.index(key)
