"""Spaces: what is read of a file, and what is refused before the first trial."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.errors import JobError
from adapt.sweep.space import Space
from adapt.sweep.space_file import FIXED, read_space
from adapt.sweep.trial_job import Base, check_space
from tests.sweep.conftest import SPACE

SpaceOf = Callable[[Mapping[str, Any]], Space]


def test_kinds_of_ranges_follow_the_file_and_the_spec(space_of: SpaceOf) -> None:
    space = space_of(
        SPACE | {"optim.momentum": {"low": 0, "high": 1}, "seed": {"low": 1, "high": 9}}
    )
    by_key = {one.key: one for one in space.dimensions}
    assert not by_key["optim.momentum"].whole, "the spec takes fractions"
    assert by_key["seed"].whole and by_key["source.batch_size"].whole
    assert by_key["optim.lr"].log and not by_key["optim.lr"].whole
    assert by_key["optim.lr"].text() == "1e-05 to 0.01, log"
    assert by_key["seed"].points() == list(range(1, 10))


def test_a_key_of_one_choice_is_drawn_with_it_alone(base: Base, space_of: SpaceOf) -> None:
    space = space_of(SPACE)
    check_space(space, base)
    for label, has in (("source_only", False), ("advent", True)):
        drawn = space.draw(lambda one, label=label: label if one.key == "method" else one.ends()[1])
        assert ("method.weight_adv.0" in drawn.drawn) == has
        job = base.job(drawn.values)
        assert job.method.name == label and job.optim.lr == 0.01
    assert job.method.weight_adv == (0.01, 0.0002)


def test_entries_of_one_key_have_ranges_of_their_own(space_of: SpaceOf, base: Base) -> None:
    optim = {"choices": {"sgd": {"name": "sgd"}, "adamw": {"name": "adamw", "lr": 1e-4}}}
    rates = [
        {"when": {"optim": "sgd"}, "low": 1e-3, "high": 1e-1, "log": True},
        {"when": {"optim": ["adamw"]}, "low": 1e-6, "high": 1e-4, "log": True},
    ]
    space = space_of({"optim.lr": rates, "optim": optim})
    check_space(space, base)
    names = [one.name for one in space.dimensions]
    assert names == ["optim", "optim.lr (optim=sgd)", "optim.lr (optim=adamw)"]
    drawn = space.draw(lambda one: "adamw" if one.key == "optim" else one.ends()[0])
    assert base.job(drawn.values).optim.lr == 1e-6


def test_a_choice_that_names_no_row_changes_its_own_keys_alone(base: Base) -> None:
    """Architecture and encoder are keys like others, each with its weights."""
    changed = base.job({"model": {"norm": "frozen", "weights": "none"}})
    assert changed.model.architecture == "deeplab_v2" and changed.model.norm == "frozen"
    whole = {"architecture": "unet", "encoder": "test_resnet", "weights": "none"}
    assert base.job({"model": whole}).model.architecture == "unet"


def test_a_grid_is_every_point_in_the_order_of_the_file(space_of: SpaceOf) -> None:
    grid = space_of(
        {
            "method": SPACE["method"],
            "method.weight_adv.0": {
                **SPACE["method.weight_adv.0"],
                "low": 0.001,
                "high": 0.003,
                "step": 0.001,
            },
            "source.batch_size": {"low": 1, "high": 2},
        }
    )
    points = grid.points()
    assert len(points) == 2 * (1 + 3)
    assert points[0] == {"method": "source_only", "source.batch_size": 1}
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    with pytest.raises(JobError, match=r"--sampler: expected a space that ends.*got optim\.lr"):
        space_of(SPACE).points()


REFUSED = {
    "no_keys": ({}, "space: expected at least one key"),
    "unknown": ({"optim.lrr": {"low": 1, "high": 2}}, r"optim\.lrr: unknown key.*mean 'lr'"),
    "no_range": (
        {"optim.lr": {"low": 1}},
        r"optim\.lr: expected low and high, or choices, got one",
    ),
    "unknown_part": ({"optim.lr": {"lo": 1, "high": 2}}, r"optim\.lr\.lo: unknown key.*'low'"),
    "empty": ({"optim.lr": {"low": 2, "high": 2}}, r"optim\.lr\.high: expected more than low, 2"),
    "log_of_zero": ({"optim.lr": {"low": 0, "high": 1, "log": True}}, r"low: expected more than 0"),
    "log_and_step": (
        {"optim.lr": {"low": 1, "high": 2, "log": True, "step": 1}},
        "step: expected none beside log",
    ),
    "step_that_misses": (
        {"seed": {"low": 1, "high": 10, "step": 4}},
        r"seed\.high: expected low and whole steps of 4, got 10.*Fix: write 9",
    ),
    "both": ({"seed": {"low": 1, "choices": [1, 2]}}, "got choices and low"),
    "one_choice": ({"seed": {"choices": [1]}}, "choices: expected at least 2, got 1"),
    "twice": ({"seed": {"choices": [1, 1]}}, "choices: expected each once, got 1 twice"),
    "a_text": ({"seed": "1 to 3"}, "seed: expected keys and values, got '1 to 3'"),
    "when_of_none": (
        {"seed": {"low": 1, "high": 2, "when": {"metod": "dacs"}}, "method": SPACE["method"]},
        r"seed\.when: expected a key of the space, got 'metod'; did you mean 'method'",
    ),
    "when_of_a_label": (
        {"seed": {"low": 1, "high": 2, "when": {"method": "advnt"}}, "method": SPACE["method"]},
        r"seed\.when\.method: expected its choices, got 'advnt'; did you mean 'advent'",
    ),
    "circle": (
        {
            "seed": {"choices": [1, 2], "when": {"method": "advent"}},
            "method": {**SPACE["method"], "when": {"seed": 1}},
        },
        "expected `when` without a circle",
    ),
    "refused_end": ({"optim.lr": {"low": -1.0, "high": 1.0}}, r"optim\.lr: expected a number"),
    "refused_choice": (
        {"model.encoder": {"choices": ["test_resnet", "resnet5O"]}},
        r"model\.encoder: .*'resnet5O'",
    ),
    "below_a_choice_without_it": (
        {"method": SPACE["method"], "method.weight_adv.0": {"low": 0.1, "high": 0.2}},
        r"method\.weight_adv\.0: expected `when` of the choices that have this key, got "
        r"method='source_only'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_refused_by_its_key(
    case: str, base: Base, space_of: SpaceOf
) -> None:
    values, said = REFUSED[case]
    with pytest.raises(JobError, match=said):
        check_space(space_of(values), base)


@pytest.mark.parametrize("key", FIXED)
def test_keys_that_would_change_what_is_compared_are_refused(key: str) -> None:
    for one in (key, f"{key}.x"):
        with pytest.raises(JobError, match=rf"^{one}: expected a key that a sweep may vary"):
            read_space({one: {"choices": [1, 2]}}, lambda _key, _value: True)
    with pytest.raises(JobError, match="name the keys below it"):
        read_space({"evaluate": {"choices": {"a": {}, "b": {}}}}, lambda _key, _value: True)


@settings(max_examples=30, deadline=None)
@given(
    low=st.floats(1e-6, 1.0),
    factor=st.floats(1.5, 1e4),
    step=st.integers(1, 5),
    n=st.integers(1, 9),
)
def test_every_point_of_a_range_is_in_it(low: float, factor: float, step: int, n: int) -> None:
    values = {
        "a": {"low": low, "high": low * factor, "log": True},
        "b": {"low": 3, "high": 3 + step * n, "step": step},
    }
    space = read_space(values, lambda _key, _value: False)
    assert space.dimensions[0].ends() == [low, low * factor]
    points = space.dimensions[1].points()
    assert points is not None and len(points) == n + 1 and points[-1] == 3 + step * n
