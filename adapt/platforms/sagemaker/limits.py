"""Checks a request against all that AWS's own description of a service states: names, types,
lengths, ranges, enums, patterns. boto3 itself checks only names, types and minima, so the rest
would be refused only after it was sent.
"""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

from adapt.config.validation import joined

_JAVA_CLASSES = {
    r"\p{L}": r"\w",
    r"\p{Z}": r"\s",
    r"\p{N}": r"\d",
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\p{Print}": r"[\x20-\x7e]",
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010ffff",
}
_KINDS: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "double": float,
    "list": list,
    "map": dict,
    "structure": dict,
}
"""Of values in requests as they are here: plain data, without times and bytes."""

_LISTED = 12


def check_request(
    service: str, operation: str, request: dict[str, Any], key_of: Callable[[str], str]
) -> None:
    """Raise `JobError`, a line for each mistake.

    `key_of` gives the user's own name of a path such as `ResourceConfig.InstanceType`.
    """
    model = _service(service).operation_model(operation)
    complaints = _complaints(model.input_shape, request, "")
    mistakes = [(f"{key_of(path)}: {problem}", fix) for path, problem, fix in complaints]
    if mistakes:
        raise joined(dict.fromkeys(mistakes))


@cache
def _service(name: str) -> Any:
    from botocore.session import get_session

    return get_session().get_service_model(name)


def _complaints(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """(path, problem, fix) of all that is wrong in a value."""
    if type(value) is not _KINDS[shape.type_name]:
        yield path, f"expected a {shape.type_name}, got {value!r}", ""
        return
    yield from ((path, problem, "") for problem in _size(shape, value))
    if shape.type_name == "structure":
        yield from _members(shape, value, path)
    elif shape.type_name == "list":
        for number, item in enumerate(value):
            yield from _complaints(shape.member, item, f"{path}.{number}")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _complaints(shape.key, key, f"{path}.{key}")
            yield from _complaints(shape.value, item, f"{path}.{key}")
    elif shape.type_name == "string":
        yield from ((path, problem, fix) for problem, fix in _text(shape, value))


def _members(shape: Any, value: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    for name in shape.required_members:
        if name not in value:
            yield _below(path, name), "missing", ""
    for name, item in value.items():
        if name not in shape.members:
            yield (
                _below(path, name),
                "is no part of this request",
                "update boto3, if it is too old",
            )
        else:
            yield from _complaints(shape.members[name], item, _below(path, name))


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _size(shape: Any, value: Any) -> Iterator[str]:
    """Of a number its value, of a text its characters, of a list or a map its members."""
    if shape.type_name in ("boolean", "structure"):
        return
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    is_number = shape.type_name in ("integer", "long", "double")
    found = value if is_number else len(value)
    unit = "" if is_number else " characters" if shape.type_name == "string" else " entries"
    if least is not None and found < least:
        yield f"expected at least {least}{unit}, got {found}"
    if most is not None and found > most:
        yield f"expected at most {most}{unit}, got {found}"


def _text(shape: Any, value: str) -> Iterator[tuple[str, str]]:
    if shape.enum and value not in shape.enum:
        close = get_close_matches(value, shape.enum, n=3, cutoff=0.5)
        known = shape.enum if len(shape.enum) <= _LISTED else close
        listed = f" (known: {', '.join(known)})" if known else ""
        problem = f"expected a name that AWS knows, got {value!r}{listed}"
        yield problem, "update boto3, if the name is new"
    pattern = shape.metadata.get("pattern")
    if pattern and not _compiled(pattern).fullmatch(value):
        yield f"expected a text of the form {pattern}, got {value!r}", ""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    r"""Java's classes in Python's; all but `\p{Print}` stand inside of brackets. A character above
    \uffff is two of Java's."""
    for java, python in _JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern)
