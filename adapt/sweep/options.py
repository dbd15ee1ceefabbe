"""The choices of a sweep that its command offers, without importing Optuna."""

from dataclasses import dataclass
from typing import Literal

Sampler = Literal["tpe", "random", "grid", "cma_es"]
Pruner = Literal["median", "asha", "hyperband", "none"]

TRIALS = 20
"""Of a sweep whose space does not end, unless `--trials` says it."""


@dataclass(frozen=True)
class Limits:
    """The end of a sweep: trials of the whole study, hours and cost over all its starts."""

    trials: int | None = None
    hours: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Search:
    """How points are drawn and bad trials are ended."""

    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    seed: int = 0
    parallel: int = 1
