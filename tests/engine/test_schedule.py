"""The poly law against golden learning rates of the papers' programs, and its warm-up."""

from pathlib import Path

import numpy as np
import pytest

from adapt.engine.schedule import WARMUPS, poly


@pytest.mark.parametrize(("network", "base"), [("G", 2.5e-4), ("D", 1e-4)])
@pytest.mark.parametrize("length", [90_000, 250_000])
def test_rates_are_the_papers(shared_dir: Path, network: str, base: float, length: int) -> None:
    with np.load(shared_dir / "golden" / "lr.npz") as golden:
        steps, rates = golden["iters"].tolist(), golden[f"{network}/max{length}"].tolist()
    for step, rate in zip(steps, rates, strict=True):
        if step < length:
            assert poly(step, base, length, 0.9) == pytest.approx(rate, rel=1e-14)


def test_after_its_end_the_rate_is_zero() -> None:
    assert poly(10, 1.0, 10) == poly(11, 1.0, 10) == 0


def test_warm_up_climbs_to_the_law() -> None:
    rates = [poly(step, 1.0, 100, power=0.0, warmup_steps=4) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_recipe_of_daformer_at_its_own_size() -> None:
    """Figures of mmcv's formula: lr 6e-5, 1500 of 40000 steps from 1e-6 on."""
    found = [poly(step, 6e-5, 40_000, 1.0, 1500, "daformer", 1e-6) for step in (0, 750, 1499, 1500)]
    climb = [1e-6, 0.5000005, 1 - (1 - 1e-6) / 1500, 1]
    fall = [1, 1 - 750 / 40_000, 1 - 1499 / 40_000, 1 - 1500 / 40_000]
    expected = [6e-5 * up * down for up, down in zip(climb, fall, strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_vfm_uda_reaches_the_whole_rate_before_it_falls() -> None:
    found = [poly(step, 1.0, 40, 1.0, 3, "vfm_uda", 1e-3) for step in (0, 1, 2, 3, 40)]
    assert found == pytest.approx([1e-3, 0.5005, 1.0, 1 - 3 / 40, 0.0])
    assert poly(0, 1.0, 40, 1.0, 1, "vfm_uda", 1e-3) == 1e-3


@pytest.mark.parametrize("warmup", WARMUPS)
def test_a_warm_up_longer_than_the_schedule_ends_with_it(warmup: str) -> None:
    rates = [poly(step, 1.0, 4, 1.0, 100, warmup, 0.0) for step in range(6)]
    assert all(0 <= rate < 0.1 for rate in rates) and rates[4:] == [0, 0]
