"""Spaces and bases of the sweep's tests."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from adapt.sweep.space import Space
from adapt.sweep.space_file import read_space
from adapt.sweep.trial_job import Base
from tests.conftest import tiny_values

SPACE: dict[str, Any] = {
    "optim.lr": {"low": 1e-5, "high": 1e-2, "log": True},
    "method": {
        "choices": {
            "source_only": {"name": "source_only"},
            "advent": {"name": "advent", "discriminator_width": 4, "weight_adv": [0.001, 0.0002]},
        }
    },
    "method.weight_adv.0": {"low": 0.0001, "high": 0.01, "when": {"method": "advent"}},
    "source.batch_size": {"low": 1, "high": 3},
}


@pytest.fixture
def base() -> Base:
    """The tiny job; nothing of it is opened."""
    return Base(tiny_values("nowhere", "runs"), "tiny")


@pytest.fixture
def space_of(base: Base) -> Callable[[Mapping[str, Any]], Space]:
    return lambda values: read_space(values, base.takes)
