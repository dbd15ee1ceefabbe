"""The file of a space: keys of a job spec in YAML, each with a range or choices.

    optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
    method:
      choices:
        advent: {name: advent}
        dacs: {name: dacs}
    method.teacher.alpha: {low: 0.9, high: 0.999, when: {method: dacs}}

A key may have a list of entries, each with its own `when`. Whole numbers stay whole only where the
spec takes no others, or with a `step`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake, validate
from adapt.errors import JobError, known_names, written
from adapt.sweep.space import Dimension, Space

FIXED = {
    "name": "it names the trials' runs",
    "classes": "scores of trials would not compare",
    "validation": "scores of trials would not compare",
    "evaluate.protocol": "scores of trials would not compare",
    "evaluate.select_by": "scores of trials would not compare",
    "evaluate.weights": "scores of trials would not compare",
    "evaluate.every_steps": "trials are compared at the same steps",
    "checkpoint": "the sweep itself sets it",
    "tracking": "the sweep itself sets it",
    "report": "it changes no weight",
    "stores": "it changes no weight",
}
"""Keys, with those below them, that a space may not have, and the reason."""

_MOST_LABEL = 60


class Entry(Section):
    """A range or choices of one key."""

    low: int | float | None = Field(None, description="Least value.")
    high: int | float | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Draw evenly over orders of magnitude.")
    step: int | float | None = Field(None, description="Distance between values, from low on.")
    choices: list[Any] | dict[str, Any] | None = Field(
        None, description="Values, or names with their values, which may be whole sections."
    )
    when: dict[str, Any] = Field(
        {}, description="Keys of the space and the choices of theirs under which this one counts."
    )

    @model_validator(mode="after")
    def _is_possible(self) -> "Entry":
        if self.choices is not None:
            _check_choices(self)
        else:
            _check_range(self)
        return self


def _check_choices(entry: Entry) -> None:
    given = [name for name in ("low", "high", "log", "step") if name in entry.model_fields_set]
    if given:
        raise Mistake(f"expected a range or choices, got choices and {given[0]}", "leave one out")
    labels = list(_labelled(entry))
    if len(labels) < 2:
        raise Mistake(
            f"choices: expected at least 2, got {len(labels)}", "set a single value in the spec"
        )
    twice = next((one for one in labels if labels.count(one) > 1), None)
    if twice is not None:
        raise Mistake(f"choices: expected each once, got {twice} twice", "leave one out")


def _check_range(entry: Entry) -> None:
    low, high, step = entry.low, entry.high, entry.step
    if low is None or high is None:
        raise Mistake(
            "expected low and high, or choices, got " + ("neither" if low is high else "one"),
            "write {low: 1, high: 2} or {choices: [1, 2]}",
        )
    if low >= high:
        raise Mistake(f"high: expected more than low, {low}, got {high}", "swap or widen them")
    if entry.log and low <= 0:
        raise Mistake(
            f"low: expected more than 0 beside log, got {low}", "raise it or leave out log"
        )
    if entry.log and step is not None:
        raise Mistake(f"step: expected none beside log, got {step}", "leave out one of both")
    if step is None:
        return
    if not 0 < step <= high - low:
        raise Mistake(f"step: expected more than 0 and at most high - low, got {step}")
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-6:
        nearest = low + int(steps) * step
        raise Mistake(
            f"high: expected low and whole steps of {step}, got {high}", f"write {nearest}"
        )


def _labelled(entry: Entry) -> list[str]:
    choices = entry.choices or []
    return list(choices) if isinstance(choices, dict) else [label_of(one) for one in choices]


def label_of(value: Any) -> str:
    """The name of a choice that the space does not name: its value as YAML has it."""
    text = value if isinstance(value, str) else written(value)
    return text if len(text) <= _MOST_LABEL else f"{text[:_MOST_LABEL]}..."


def read_space(values: Mapping[str, Any], takes: Callable[[str, Any], bool]) -> Space:
    """The content of a space's file -> space. `takes`: whether the spec takes a value for a key.

    Raises `JobError` by key, with a line for each mistake of a section.
    """
    entries = [(key, one, many) for key in values for one, many in _entries(key, values[key])]
    if not entries:
        raise JobError("space: expected at least one key of the job spec, got none")
    labels: dict[str, list[str]] = {}
    for key, entry, _ in entries:
        _refuse_fixed(key)
        labels[key] = labels.get(key, []) + (_labelled(entry) if entry.choices else [])
    dimensions = [_dimension(key, entry, many, labels, takes) for key, entry, many in entries]
    return Space(tuple(_ordered(dimensions)), json.loads(json.dumps(values)))


def _entries(key: str, value: Any) -> Iterator[tuple[Entry, bool]]:
    if not isinstance(value, list):
        yield validate(Entry, value, key), False
        return
    for number, one in enumerate(value):
        yield validate(Entry, one, f"{key}.{number}"), True


def _refuse_fixed(key: str) -> None:
    plain = re.sub(r"\[(\d+)\]", r".\1", key)
    for fixed, reason in FIXED.items():
        if plain == fixed or plain.startswith(f"{fixed}.") or fixed.startswith(f"{plain}."):
            raise JobError(
                f"{key}: expected a key that a sweep may vary, got one of {fixed}: {reason}",
                "leave it out, or name the keys below it that are to vary"
                if fixed.startswith(f"{plain}.")
                else "leave it out",
            )


def _dimension(
    key: str,
    entry: Entry,
    many: bool,
    labels: Mapping[str, list[str]],
    takes: Callable[[str, Any], bool],
) -> Dimension:
    when = {parent: _wanted(key, parent, one, labels) for parent, one in entry.when.items()}
    shown = ", ".join(f"{parent}={'/'.join(one)}" for parent, one in when.items())
    name = f"{key} ({shown})" if many and when else key
    if entry.choices is not None:
        named = _labelled(entry)
        choices = entry.choices
        values = choices.values() if isinstance(choices, dict) else choices
        return Dimension(name, key, when, choices=dict(zip(named, values, strict=True)))
    assert entry.low is not None and entry.high is not None, "the entry was checked"
    low, high, step = entry.low, entry.high, entry.step
    whole = all(isinstance(one, int) for one in (low, high, step or 1))
    if whole and step is None:
        whole = not takes(key, low + 0.5)
    return Dimension(name, key, when, low, high, entry.log, step, whole)


def _wanted(key: str, parent: str, value: Any, labels: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The labels of a `when`, one or a list. Raises `JobError` for what the space has not."""
    if parent not in labels:
        raise JobError(f"{key}.when: expected a key of the space, {known_names(parent, labels)}")
    known = labels[parent]
    if not known:
        raise JobError(f"{key}.when: expected a key with choices, got {parent}, a range")
    wanted = [label_of(one) for one in (value if isinstance(value, list) else [value])]
    for one in wanted:
        if one not in known:
            raise JobError(f"{key}.when.{parent}: expected its choices, {known_names(one, known)}")
    return tuple(wanted)


def _ordered(dimensions: list[Dimension]) -> Iterator[Dimension]:
    """Each after those that its `when` names. Raises `JobError` where they name one another."""
    names = [one.name for one in dimensions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise JobError(f"{twice}: expected entries of different `when`, got the same twice")
    left, known = list(dimensions), set[str]()
    while left:
        ready = [one for one in left if not any(_waits(one, other) for other in left)]
        if not ready:
            keys = ", ".join(dict.fromkeys(one.key for one in left))
            raise JobError(f"{keys}: expected `when` without a circle, got one")
        known |= {one.name for one in ready}
        yield from ready
        left = [one for one in left if one.name not in known]


def _waits(one: Dimension, other: Dimension) -> bool:
    return other.key in one.when
