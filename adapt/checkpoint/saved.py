"""Stored checkpoints by name: what a save returns, and the mark of the best."""

import json
from math import isfinite
from typing import NamedTuple


class Saved(NamedTuple):
    """One checkpoint: its folder's name, the URI of its weights and their sha256."""

    name: str
    weights_uri: str
    sha256: str


class Best(NamedTuple):
    """The best checkpoint so far and its score."""

    name: str
    score: float
    sha256: str

    @classmethod
    def parsed(cls, data: bytes) -> "Best":
        """The content of BEST.json. Raises `ValueError` or `TypeError` where it is damaged, or its
        score is no number."""
        best = cls(**json.loads(data))
        if not isfinite(best.score):
            raise ValueError(f"expected a number as its score, got {best.score}")
        return best

    @property
    def step(self) -> int:
        """Steps done."""
        return step_of(self.name)


def step_of(name: str) -> int:
    """Steps done at a checkpoint, by its folder's name."""
    return int(name.split("-")[1])
