"""The poly law against golden learning rates of the papers' programs, and its warm-up."""

from pathlib import Path

import numpy as np
import pytest

from adapt.engine.schedule import poly


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
