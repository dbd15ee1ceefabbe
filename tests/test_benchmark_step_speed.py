"""The benchmark of a step: both sides compute the same, and its table has what it timed."""

import pytest
import torch

from adapt.engine.train_config import PRECISIONS
from benchmarks import step_speed
from benchmarks.step_speed import PAPERS, Timed, check_equal, convolution_peak, measure, table


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_speed, "CHANNELS", 8)
    monkeypatch.setattr(step_speed, "PEAK_HW", (8, 8))


@pytest.mark.slow
def test_both_sides_take_the_same_steps(small: None) -> None:
    found = measure("caffe_resnet14", (64, 96), (64, 64), rounds=1)
    assert list(found) == [PAPERS, *(f"ours, {precision}" for precision in PRECISIONS)]
    assert found[PAPERS].ratio == 1.0
    assert all(one.seconds > 0 and one.ratio > 0 and one.mfu > 0 for one in found.values())


def test_sides_that_differ_are_no_comparison() -> None:
    check_equal({"a": 1.0}, {"a": 1.0005})
    with pytest.raises(ValueError, match="expected equal losses"):
        check_equal({"a": 1.0}, {"a": 1.01})
    with pytest.raises(ValueError, match="expected equal losses"):
        check_equal({"a": 1.0, "b": 1.0}, {"a": 1.0})


def test_the_table_has_a_row_a_side_and_the_machine() -> None:
    lines = table({PAPERS: Timed(2.0, 1.0, 0.25), "ours, bf16": Timed(0.5, 4.0, 0.5)}, "a machine")
    assert lines.splitlines()[2:] == [
        "| papers' order, fp32 | 2.00 | 1.00 | 0.25 |",
        "| ours, bf16 | 0.50 | 4.00 | 0.50 |",
        "",
        "a machine",
    ]


def test_the_peak_is_a_rate(small: None) -> None:
    assert convolution_peak("fp32", torch.device("cpu")) > 0
