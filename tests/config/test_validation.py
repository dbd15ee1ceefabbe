"""Mistakes in words: one formatter, whatever the section and wherever its values came from."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field, PositiveInt, RootModel, model_validator

from adapt.config.section import Section, one_of
from adapt.config.strict_yaml import with_overrides
from adapt.config.validation import Mistake, validate
from adapt.errors import JobError
from adapt.methods import MethodSection, build_method
from adapt.models import ModelSection, build_segmenter
from adapt.platforms import load_profile
from adapt.spec.loading import parse_spec

Share = Annotated[float, Field(ge=0, lt=1)]


class Disc(Section):
    """One of two shapes."""

    kind: Literal["disc"]
    radius_px: float = Field(gt=0)
    sides: Literal[8, 16] = 8


class Box(Section):
    """The other one, with checks of its own."""

    kind: Literal["box", "cube"]
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> "Box":
        if self.low > self.high:
            raise Mistake(f"low: expected at most {self.high}, got {self.low}", fix="swap them")
        if self.low == self.high:
            raise ValueError("expected a box that is not empty")
        return self


class Names(RootModel[tuple[str, ...]]):
    """A list that stands for a section."""


class Whole(Section):
    """A field of every kind."""

    shape: one_of((Disc, Box), "kind") = Box(kind="box")  # type: ignore[valid-type]
    shapes: dict[str, Disc] = Field({})
    count: int = Field(1, ge=1)
    even: int = Field(2, ge=2, le=8)
    width: int = Field(64, ge=64, multiple_of=64)
    short: str = Field("a", max_length=2)
    many: PositiveInt = 1
    pair: tuple[Share, Share] | None = None
    scales: tuple[float, ...] = Field((1.0,), min_length=1)
    word: str = Field("a", pattern="^[a-z]+$")
    mode: Literal["fast", "slow"] = "fast"
    on: bool = True
    where: Path | None = None
    names: Names = Names(("a",))
    boxes: list[Box] = Field([])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coutn": 1}, "coutn: unknown key, got 'coutn'; did you mean 'count'? (known: boxes, "),
        ({"count": "10k"}, "count: expected a positive integer, got '10k'. Fix: write 10000."),
        ({"count": "500"}, "count: expected a positive integer, got '500'. Fix: write 500."),
        ({"many": "2M"}, "many: expected a positive integer, got '2M'. Fix: write 2000000."),
        ({"word": "500"}, "word: expected a text that matches ^[a-z]+$, got '500'"),
        ({"count": 0}, "count: expected a positive integer, got 0. Fix: write one in that range"),
        (
            {"count": None},
            "count: expected a positive integer, got null. Fix: give it a value, or ",
        ),
        ({"count": 1.0}, "count: expected a positive integer, got 1.0. Fix: write 1."),
        ({"count": True}, "count: expected a positive integer, got true"),
        ({"even": 9}, "even: expected an integer >= 2 and <= 8, got 9"),
        ({"width": 96}, "width: expected an integer >= 64 and divisible by 64, got 96"),
        ({"short": "abc"}, "short: expected a text with a length of at most 2, got 'abc'"),
        ({"pair": [0.5]}, "pair.1: missing, expected a number >= 0 and < 1"),
        ({"pair": [0.5, 2]}, "pair.1: expected a number >= 0 and < 1, got 2. Fix: wri"),
        ({"pair": [0.5, float("nan")]}, "pair.1: expected a number >= 0 and < 1, got nan"),
        ({"pair": [0, 0, 0]}, "pair: expected a list of 2 or null, got [0, 0, 0]"),
        ({"pair": 3}, "pair: expected a list of 2 or null, got 3"),
        ({"scales": []}, "scales: expected a list of at least 1, got []"),
        ({"scales": [1, "x"]}, "scales.1: expected a number, got 'x'"),
        ({"mode": "fas"}, "mode: expected fast or slow, got 'fas'; did you mean 'fast'?"),
        ({"mode": 3}, "mode: expected fast or slow, got 3"),
        ({"on": "yes"}, "on: expected true or false, got 'yes'. Fix: write true."),
        ({"where": 3}, "where: expected a path or null, got 3. Fix: write '3'."),
        ({"names": "a"}, "names: expected a list, got 'a'. Fix: write ['a']."),
        ({"names": [1]}, "names.0: expected a text, got 1. Fix: write '1'."),
        ({"shape": {}}, "shape.kind: missing, expected one of box, cube, disc"),
        ({"shape": {"kind": "bo"}}, "shape.kind: expected a known name, got 'bo'; did you mean"),
        ({"shape": {"kind": 3}}, "shape.kind: expected a known name, got 3 (known: box, cube, "),
        ({"shape": 3}, "shape: expected keys and values, got 3"),
        ({"shape": {"kind": "disc"}}, "shape.radius_px: missing, expected a number > 0"),
        (
            {"shape": {"kind": "disc", "radius_px": 1, "sides": 12}},
            "shape.sides: expected 8 or 16, got 12",
        ),
        ({"shape": {"kind": "cube", "disc": 3}}, "shape.disc: unknown key, got 'disc' (known: h"),
        ({"shapes": {"low": {"kind": "disc"}}}, "shapes.low.radius_px: missing, expected a num"),
        ({"shapes": {"a": {"kind": "box", "radius_px": 1}}}, "shapes.a.kind: expected disc, got"),
        ({"shapes": []}, "shapes: expected keys and values, got []"),
        ({"boxes": [{"kind": "box", "hihg": 3}]}, "boxes.0.hihg: unknown key, got 'hihg'; did you"),
        (
            {"boxes": [{"kind": "box", "low": 3}]},
            "boxes.0.low: expected at most 1, got 3. Fix: swap them.",
        ),
        ({"boxes": [{"kind": "box", "low": 1}]}, "boxes.0: expected a box that is not empty"),
        ({"word": "\ud800"}, "values: expected plain values, got "),
        ({"word": b"a"}, "values: expected plain values, got Object of type bytes"),
    ],
)
def test_every_kind_of_mistake_is_named_by_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as caught:
        validate(Whole, values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value), "one mistake, one line"


def test_the_choices_of_a_key_stand_in_its_message_once() -> None:
    with pytest.raises(JobError) as wrong:
        validate(Whole, {"mode": "fas"})
    assert str(wrong.value) == "mode: expected fast or slow, got 'fas'; did you mean 'fast'?"
    with pytest.raises(JobError) as number:
        validate(Whole, {"mode": 3})
    assert str(number.value) == "mode: expected fast or slow, got 3"


def test_a_mistake_below_a_key_has_it_in_its_path() -> None:
    with pytest.raises(JobError, match=r"^whole\.count: expected a positive integer, got 0\. Fix"):
        Whole.from_values({"count": 0}, "whole")
    with pytest.raises(JobError, match=r"^whole: expected plain values, got Object of type set"):
        Whole.from_values({"count": {0}}, "whole")


def test_the_fix_of_one_mistake_is_an_attribute_and_several_have_a_line_each() -> None:
    with pytest.raises(JobError) as one:
        validate(Whole, {"count": "10k"})
    assert one.value.problem == "count: expected a positive integer, got '10k'"
    assert one.value.fix == "write 10000"
    with pytest.raises(JobError) as several:
        validate(Whole, {"count": "10k", "even": 1, "onn": True})
    assert str(several.value).splitlines()[:2] == [
        "count: expected a positive integer, got '10k'. Fix: write 10000.",
        "even: expected an integer >= 2 and <= 8, got 1. Fix: write one in that range, or remove "
        "the key for 2.",
    ]
    assert several.value.fix == ""


@pytest.mark.parametrize(
    ("values", "rest"),
    [
        ({"architecture": "unte"}, "architecture: expected a known name, got 'unte'; did you mean"),
        ({}, "architecture: missing, expected one of bisenet, "),
        ({"architecture": "pspnet", "encodre": "x"}, "encodre: unknown key, got 'encodre'; did y"),
        ({"architecture": "pspnet", "output_stride": 12}, "output_stride: expected 8, 16 or 32"),
    ],
)
def test_a_models_mistake_reads_the_same_from_python_a_spec_and_set(
    tiny_job: dict[str, Any], values: dict[str, Any], rest: str
) -> None:
    said = set()
    overrides = ["model={}", *(f"model.{key}={value}" for key, value in values.items())]
    for attempt in (
        lambda: build_segmenter(values),
        lambda: validate(ModelSection, values, "model"),
        lambda: parse_spec({**tiny_job, "model": values}, "tiny"),
        lambda: parse_spec(with_overrides(tiny_job, overrides), "tiny"),
    ):
        with pytest.raises(JobError) as caught:
            attempt()
        said.add(str(caught.value))
    (message,) = said
    assert message.startswith(f"model.{rest}")


def test_a_methods_mistake_reads_the_same_from_python_and_a_spec(tiny_job: dict[str, Any]) -> None:
    values = {"name": "advent", "wieght_adv": [1.0]}
    said = set()
    for attempt in (
        lambda: build_method(values, build_segmenter(tiny_job["model"])),
        lambda: validate(MethodSection, values, "method"),
        lambda: parse_spec({**tiny_job, "method": values}, "tiny"),
    ):
        with pytest.raises(JobError) as caught:
            attempt()
        said.add(str(caught.value))
    (message,) = said
    assert message.startswith("method.wieght_adv: unknown key, got 'wieght_adv'; did you mean 'w")


def test_profiles_and_stores_say_the_same(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(yaml.safe_dump({"platform": "docker", "imgae": "a/b:c"}))
    with pytest.raises(JobError, match=r"imgae: unknown key, got 'imgae'; did you mean 'image'\?"):
        load_profile(profile)
    with pytest.raises(JobError) as caught:
        parse_spec({**tiny_job, "stores": {"s3": {"regoin": "x", "max_attempts": "5"}}}, "tiny")
    unknown, wrong = sorted(str(caught.value).splitlines(), reverse=True)
    assert unknown.startswith("stores.s3.regoin: unknown key, got 'regoin'; did you mean 'region'")
    assert (
        wrong
        == "stores.s3.max_attempts: expected an integer >= 1 and <= 20, got '5'. Fix: write 5."
    )
