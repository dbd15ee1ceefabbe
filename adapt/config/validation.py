"""Plain values -> a checked section of a job spec or profile; one error line for each mistake.

pydantic finds the mistakes. Its error types name the problem, the models' own types the
expected value; all messages of mistakes are made here. Types are checked strictly, as in JSON.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from adapt.config.kinds import fields_of, form_names, inside, names_of, parts_of, tag_of, value_at
from adapt.config.meanings import meanings
from adapt.config.unknown_keys import meanings_of_key, paths_in
from adapt.errors import JobError, got, known_names, written

Model = TypeVar("Model")

MAX_LINES = 50
"""Most mistakes that one error lists."""


def validate(kind: type[Model], values: Any, under: str = "") -> Model:
    """Values as read from YAML -> a model, or one of a union of models.

    Raises `JobError` with one line for each mistake, by key path; `under` is the key of `values`.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        mistakes = [_mistake(kind, one, under, values) for one in found]
        raise joined(dict.fromkeys(mistakes)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise JobError(f"{under or 'values'}: expected plain values, got {error}") from error


class Mistake(ValueError):
    """Error of a section's validator that names a fix; without one it raises `ValueError`."""

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.fix = fix


def joined(mistakes: Iterable[tuple[str, str]]) -> JobError:
    """Pairs of problem and fix -> one error, with a line for each where there are several."""
    first, *others = mistakes
    if not others:
        return JobError(*first)
    lines = [str(JobError(*pair)) for pair in (first, *others)]
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return JobError("\n".join(lines[:MAX_LINES] + more))


class _Spot(NamedTuple):
    """Key path as the user wrote it, the type expected there, the section around it, and the
    value there, or None."""

    path: str
    kind: Any
    around: Any
    value: Any


def _mistake(whole: Any, error: Any, under: str, values: Any) -> tuple[str, str]:
    """One of pydantic's errors -> problem and fix."""
    path, kind, around, typed = _descend(whole, error["loc"], under, values)
    found = error["input"] if typed is None else typed
    match error["type"]:
        case "extra_forbidden":
            keys = fields_of(around)
            meant = meanings_of_key(path, keys, paths_in(whole, values, under))
            return f"{path}: unknown key, {known_names(error['loc'][-1], keys, meant)}", ""
        case "missing":
            return f"{path}: missing, expected {expected(kind)}", ""
        case "union_tag_invalid" | "union_tag_not_found":
            return _wrong_name(path, kind, found), ""
        case "value_error":
            raised = error["ctx"]["error"]
            return _own_words(path, kind, str(raised)), getattr(raised, "fix", "")
        case "literal_error":
            known = [str(one) for choice in parts_of(kind)[0] for one in get_args(choice)]
            fix = fix_of(kind, found)
            return f"{path}: expected {expected(kind)}, {got(found, () if fix else known)}", fix
        case "json_invalid":
            return f"{path or 'values'}: expected plain values, got {error['ctx']['error']}", ""
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            fix = _of_range(around, path.rpartition(".")[2])
            return f"{path}: expected {expected(kind)}, got {written(found)}", fix
    return f"{path}: expected {expected(kind)}, got {written(found)}", fix_of(kind, found)


def _wrong_name(path: str, kind: Any, found: Mapping[str, Any]) -> str:
    """Of a union of sections, where the name that picks one is missing or unknown."""
    sections, tag = parts_of(kind)[0], tag_of(kind)
    known = [name for section in sections for name in names_of(section, tag)]
    key = f"{path}.{tag}" if path else tag
    if tag not in found:
        return f"{key}: missing, expected one of {', '.join(sorted(known))}"
    return f"{key}: expected a known name, {known_names(found[tag], known)}"


def _own_words(path: str, kind: Any, text: str) -> str:
    """A validator's text, which may name a key of its section first: `scale: expected ...`."""
    names_key = re.split(r"[:.\[]", text)[0] in fields_of(kind)
    return f"{path}{'.' if names_key else ': '}{text}" if path else text


def fix_of(kind: Any, found: Any) -> str:
    """The fix of a value of the wrong type: the first of its likely meanings that is valid."""
    for meaning in meanings(found):
        with suppress(ValidationError):
            TypeAdapter(kind).validate_json(json.dumps(meaning), strict=True)
            return f"write {written(meaning)}"
    if found is not None:
        return ""
    notes = parts_of(kind)[1]
    optional = any(isinstance(one, FieldInfo) and not one.is_required() for one in notes)
    return "give it a value, or remove the key" if optional else "give it a value"


def _of_range(around: Any, key: str) -> str:
    """The fix of a number that is too small or too large."""
    field = fields_of(around).get(key)
    if field is None or field.is_required():
        return "write one in that range"
    default = written(field.get_default(call_default_factory=True))
    return f"write one in that range, or remove the key for {default}"


def _descend(kind: Any, loc: Iterable[str | int], under: str, values: Any) -> _Spot:
    """The spot of an error. A name that picks one of a union stands in `loc`, not in the path."""
    path, around = [under] if under else [], kind
    for key in loc:
        if key in form_names(kind):
            continue
        tag = tag_of(kind)
        if tag:
            kind = next(one for one in parts_of(kind)[0] if key in names_of(one, tag))
            continue
        around, kind = kind, inside(kind, key)
        values = value_at(values, key)
        path.append(str(key))
    return _Spot(".".join(path), kind, around, values)


def expected(kind: Any) -> str:
    """A type as a message states it: `an integer >= 2`, `fp32 or bf16`, `a list of 2 or null`."""
    choices, notes = parts_of(kind)
    return " or ".join(dict.fromkeys(_words(choice, notes) for choice in choices))


def alternatives(values: Iterable[Any]) -> str:
    """`8, 16 or 32`."""
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def _words(kind: Any, notes: list[Any]) -> str:
    origin, members = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return alternatives(members)
    words = "keys and values" if fields_of(kind) else _KINDS.get(origin, "a value")
    if origin is tuple and Ellipsis not in members:
        words += f" of {len(members)}"
    limits = _LIMITS.get(origin, {})
    bounds = [
        f"{sign} {getattr(note, limit)}"
        for note in notes
        for limit, sign in limits.items()
        if hasattr(note, limit)
    ]
    if origin is int and bounds in (["> 0"], [">= 1"]):
        return "a positive integer"
    return " ".join([words, " and ".join(bounds)]).strip()


_KINDS = {
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
    bool: "true or false",
    tuple: "a list",
    list: "a list",
    dict: "keys and values",
    NoneType: "null",
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "divisible by"}
_SIZES = {"min_length": "of at least", "max_length": "of at most"}
_LIMITS: dict[Any, dict[str, str]] = {
    int: _SIGNS,
    float: _SIGNS,
    tuple: _SIZES,
    list: _SIZES,
    dict: _SIZES,
    str: {
        "pattern": "that matches",
        "min_length": "with a length of at least",
        "max_length": "with a length of at most",
    },
}
