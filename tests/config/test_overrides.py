"""`--set` in every wrong form: a job, or a `JobError`; never anything else."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adapt.config.strict_yaml import parse_yaml, with_overrides
from adapt.errors import JobError
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec

MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def keys_of(values: Any, prefix: str = "") -> list[str]:
    """Every key path of nested values, sections and lists too."""
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    found = []
    for key, value in entries:
        found.append(f"{prefix}{key}")
        if isinstance(value, dict | list):
            found += keys_of(value, f"{prefix}{key}.")
    return found


CLASSES = [
    {"name": name, "colour": [0, 0, 0], "ids": {"tiny": [number]}}
    for number, name in enumerate(("road", "sky"))
]
DOMAIN = {"dataset": "tiny", "uri": "/data", "size_hw": [32, 32]}
JOB = {
    "name": "tiny", "classes": CLASSES, "source": DOMAIN, "target": DOMAIN,
    "validation": {"dataset": "tiny", "uri": "/data"},
    "model": {"architecture": "deeplab_v2"}, "method": {"name": "advent"},
    "checkpoint": {"uri": "/runs"}, "stores": {"s3": {"region": "eu"}},
}  # fmt: skip
PATHS = keys_of(parse_spec(JOB, "tiny").resolved() | {"classes": CLASSES})
TEXTS = [
    "", "null", "true", "x", "0", "-1", "2", "1.5", "1e400", "-1e400", ".nan", "nan", "9" * 5000,
    "[]", "{}", "[1, 2]", "[[[1]]]", "{a: 1}", "{1: 2}", "!!int x", "!!float x", "!!bool x",
    "!!timestamp x", "!!binary aGk=", "!!set {a}", "!!null x", "&a [*a]", '"\\ud800"',
    "a: 1\na: 2", "\x00", "s3://", "://", "s3://[", "http://b:port/", "*x", "%",
]  # fmt: skip


def set_or_refuse(override: str) -> None:
    """A job, or a `JobError` that is not empty."""
    with contextlib.suppress(JobError):
        assert isinstance(parse_spec(with_overrides(JOB, [override]), "tiny"), JobSpec)


@MANY
@given(path=st.sampled_from(PATHS), text=st.sampled_from(TEXTS) | st.text(max_size=12))
def test_any_value_at_any_key_is_taken_or_refused(path: str, text: str) -> None:
    set_or_refuse(f"{path}={text}")


@MANY
@given(
    start=st.sampled_from(["", "train", "classes", "classes.0", "source.size_hw", "stores", "x"]),
    end=st.text(max_size=6) | st.sampled_from(["0", "-1", "²", "9" * 5000, "1.5", ".", "=", "0x1"]),
    text=st.sampled_from(TEXTS),
)
@example("classes", "²", "1")
@example("", "", "1")
def test_any_key_is_taken_or_refused(start: str, end: str, text: str) -> None:
    set_or_refuse(f"{start}.{end}={text}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.output_stride=12", "model.output_stride: expected 8, 16 or 32, got 12"),
        ("train.steps=", "train.steps: expected a positive integer, got null. Fix: give it a"),
        ("train.steps=9.5", "train.steps: expected a positive integer, got 9.5"),
        ("train.steps=1e4", "train.steps: expected a positive integer, got 1e4. Fix: write 10000."),
        ("train={steps: 2e+3}", "train.steps: expected a positive integer, got 2e+3. Fix: write 2"),
        ("optim.lr=1e400", "optim.lr: expected a number > 0, got 1e400"),
        ("optim.lr=.nan", "optim.lr: expected a number > 0, got '.nan'"),
        (f"train.steps={'9' * 5000}", "--set train.steps: expected a number of at most 300 di"),
        (
            "train.steps=!!int x",
            "--set train.steps: expected an integer, got 'x'",
        ),
        ("train.steps=!!bool x", "--set train.steps: expected true or false, got 'x'"),
        (f"train.steps={'[' * 1500}", "--set train.steps: expected a few levels of values, got"),
        ("train.steps=!!binary aGk=", "--set train.steps: expected plain values, got the tag !!b"),
        ("train.steps=&a [*a]", "--set train.steps: expected plain values, got one that co"),
        ("source.size_hw.²=3", "--set source.size_hw.²: expected the number of an entry, got '²'"),
        ("source.size_hw.2=3", "--set source.size_hw.2: expected the number of an entry, got '2' "),
        ("source.size_hw.0.1=3", "--set source.size_hw.0.1: expected the number of an entry, got"),
        ("source..uri=3", "--set source..uri: expected KEY.PATH=VALUE, got an empty part 2 of 3"),
    ],
)
def test_wrong_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_spec(with_overrides(JOB, [override]), "tiny")
    assert str(caught.value).startswith(message)


def test_overrides_leave_the_given_values_alone() -> None:
    before = json.dumps(JOB)
    with_overrides(JOB, ["classes.0.name=x", "source.size_hw.0=64", "train.steps=3"])
    assert json.dumps(JOB) == before


@MANY
@given(st.text())
def test_any_text_is_yaml_or_refused(text: str) -> None:
    with contextlib.suppress(JobError):
        parse_yaml(text, "text")
