"""A value of the wrong type: its message proposes a fix, or none rather than a wrong one."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveInt

from adapt.config.section import Section
from adapt.config.strict_yaml import parse_yaml
from adapt.config.validation import validate
from adapt.errors import JobError, written


class Kinds(Section):
    """A key of each kind that is mistaken for another."""

    needed: int
    count: PositiveInt = 1
    share: Annotated[float, Field(ge=0, le=1)] = 0
    text: str = "a"
    path: Path | None = None
    maybe: int | None = None
    on: bool = True
    hw: tuple[int, int] = (1, 1)
    scales: tuple[float, ...] = (1.0,)
    names: list[str] = Field([])
    stride: Literal[8, 16] = 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("needed:", "needed: expected an integer, got null. Fix: give it a value."),
        ("count: ~", "count: expected a positive integer, got null. Fix: give it a value, or"),
        ("count: 1e4", "count: expected a positive integer, got 1e4. Fix: write 10000."),
        ("count: 2.50E3", "count: expected a positive integer, got 2.50E3. Fix: write 2500."),
        ("count: 4.0", "count: expected a positive integer, got 4.0. Fix: write 4."),
        ("count: 2.5", "count: expected a positive integer, got 2.5"),
        ("count: -1e1", "count: expected a positive integer, got -1e1"),
        ("count: '0'", "count: expected a positive integer, got '0'"),
        ("count: 10_000", "count: expected a positive integer, got '10_000'. Fix: write 10000."),
        ("count: '10,000'", "count: expected a positive integer, got '10,000'. Fix: write 10000."),
        ("count: 1.5k", "count: expected a positive integer, got '1.5k'. Fix: write 1500."),
        ("count: 0x10", "count: expected a positive integer, got '0x10'. Fix: write 16."),
        ("count: 0o17", "count: expected a positive integer, got '0o17'. Fix: write 15."),
        ("count: 0o99", "count: expected a positive integer, got '0o99'"),
        ("count: [3]", "count: expected a positive integer, got [3]. Fix: write 3."),
        ("count: [3, 4]", "count: expected a positive integer, got [3, 4]"),
        ("count: yes", "count: expected a positive integer, got 'yes'"),
        ("count: true", "count: expected a positive integer, got true"),
        ("count: {a: null}", "count: expected a positive integer, got {a: null}"),
        ("maybe: None", "maybe: expected an integer or null, got 'None'. Fix: write null."),
        ("share: 0,5", "share: expected a number >= 0 and <= 1, got '0,5'. Fix: write 0.5."),
        ("share: 1,5", "share: expected a number >= 0 and <= 1, got '1,5'"),
        ("share: .nan", "share: expected a number >= 0 and <= 1, got '.nan'"),
        ("text: 5", "text: expected a text, got 5. Fix: write '5'."),
        ("text: 1e4", "text: expected a text, got 1e4. Fix: write '1e4'."),
        ("text: true", "text: expected a text, got true. Fix: write 'true'."),
        ("text: [a]", "text: expected a text, got ['a']. Fix: write 'a'."),
        ("path: 3", "path: expected a path or null, got 3. Fix: write '3'."),
        ("on: Yes", "on: expected true or false, got 'Yes'. Fix: write true."),
        ("on: OFF", "on: expected true or false, got 'OFF'. Fix: write false."),
        ("on: 1", "on: expected true or false, got 1. Fix: write true."),
        ("on: 2", "on: expected true or false, got 2"),
        ("hw: 512", "hw: expected a list of 2, got 512. Fix: write [512, 512]."),
        ("hw: 512x1024", "hw: expected a list of 2, got '512x1024'. Fix: write [512, 1024]."),
        ("hw: (512, 1024)", "hw: expected a list of 2, got '(512, 1024)'. Fix: write [512, 1024]."),
        ("hw: [512, '64']", "hw.1: expected an integer, got '64'. Fix: write 64."),
        ("scales: 0.5", "scales: expected a list, got 0.5. Fix: write [0.5]."),
        ("names: a", "names: expected a list, got 'a'. Fix: write ['a']."),
        ("stride: '16'", "stride: expected 8 or 16, got '16'. Fix: write 16."),
        ("stride: 12", "stride: expected 8 or 16, got 12"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_as_typed_with_its_likely_meaning(
    text: str, message: str
) -> None:
    values = {"needed": 1, **parse_yaml(text, "text")}
    with pytest.raises(JobError) as caught:
        validate(Kinds, values)
    assert str(caught.value).startswith(message)
    assert caught.value.fix == "" or "Fix: " in message, "no fix rather than a wrong one"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([True, {"a": None}], "[true, {a: null}]"),
        ((1, "b"), "[1, 'b']"),
        ("x" * 500, "'" + "x" * 199 + "..."),
        (list(range(500)), str(list(range(500)))[:200] + "..."),
    ],
)
def test_values_are_written_as_in_a_job_spec(value: Any, text: str) -> None:
    assert written(value) == text
