"""A job spec as text: strict YAML in, one clear line for each mistake out.

YAML 1.1 lets a key stand twice, reads `2e-4` as a string and `off` as false; here the first is an
error, the second a number and the third a string. Types are checked strictly, as in JSON.
"""

import base64
import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml

from adapt.errors import JobError, known_names, written
from storage.config import StoreConfig
from storage.stores import Stores

IN_VARIABLE = "env:"
GZIP = b"\x1f\x8b"


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML with unique keys and JSON's scalars."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, list | dict):
                raise JobError(f"line {line}: expected a name before the colon, got {key}")
            if key in seen:
                raise JobError(
                    f"{key}: expected once, got it on lines {seen[key]} and {line}", fix="keep one"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [
        pair for pair in pairs if not pair[0].endswith((":int", ":float", ":bool", ":timestamp"))
    ]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


class Number(float):
    """A number with a point or an exponent; messages show it as it was typed: `1e4`."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __repr__(self) -> str:
        return self.text


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Number:
    return Number(loader.construct_scalar(node))


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _decimal)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _number)


def parse_yaml(text: str, name: str) -> Any:
    """YAML text -> plain values.

    Raises `JobError` with `name` and the line.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise JobError(
            f"{name}:{line} is not valid YAML: {getattr(error, 'problem', error)}"
        ) from error
    except _UNREADABLE as error:
        raise JobError(f"{name}: expected plain values, got {_reason(error)}") from error


_UNREADABLE = (ValueError, KeyError, AttributeError, TypeError, RecursionError)
"""Errors of PyYAML for `!!int x`, `!!bool x`, `!!timestamp x`, a number of 5000 digits, and lists
in lists without end."""


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def read_yaml(where: Path | str, environment: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The mapping in a YAML file, which may be the path of one, its URI in any store, or
    `env:VARIABLE`, a variable that holds it in base64, compressed by gzip or not.

    Raises `JobError` where there is none, `StoreError`.
    """
    name = str(where)
    try:
        text = _content(name, environment).decode("utf-8")
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
        return unpacked(environment.get(name.removeprefix(IN_VARIABLE), ""), name)
    if "://" in name:
        folder, _, key = name.rpartition("/")
        return _stores(name, environment).open(folder).get(key)
    return Path(name).read_bytes()


def _stores(name: str, environment: Mapping[str, str]) -> Stores:
    """Stores before any job spec says how to reach them: by AWS's own variables, for OBS too."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint is None and name.startswith("obs://"):
        raise JobError(
            f"{name}: expected the endpoint of OBS in AWS_ENDPOINT_URL_S3, as "
            "https://obs.REGION.myhuaweicloud.com, got nothing"
        )
    return Stores({"obs": StoreConfig(endpoint_url=endpoint)} if endpoint else {}, environment)


def packed(text: str) -> str:
    """Text for a variable: gzip, then base64; the same text always gives the same."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpacked(text: str, name: str) -> bytes:
    """The text that `packed` packed, or plain base64. Raises `JobError` that names `name`."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise JobError(
            f"{name}: expected a job spec in base64, gzip or not, got: {error}"
        ) from error


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b.c=value` pairs, the value read as YAML; lists are reached by number.

    Raises `JobError`.
    """
    changed: dict[str, Any] = deepcopy(dict(values))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.split(".")
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
