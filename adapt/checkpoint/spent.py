"""The time that a run has taken so far, in all its sessions: by it GPU-hours and cost count."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """Seconds, seconds of all nodes together, and seconds of all GPUs together."""

    seconds: float = 0.0
    node_s: float = 0.0
    gpu_s: float = 0.0

    @classmethod
    def of(cls, sessions: Iterable[Mapping[str, Any]]) -> "Spent":
        """The sum over a history's sessions, with what killed sessions before them had not
        saved. A rank has one GPU, where its device is one."""
        total = cls()
        for one in sessions:
            seconds, nodes, ranks = one["seconds"], one.get("nodes", 1), one.get("ranks", 1)
            gpus = 0 if one["device"] == "cpu" else ranks
            own = cls(seconds, seconds * nodes, seconds * gpus)
            total = total.plus(own).plus(cls.read(one.get("unsaved")))
        return total

    @classmethod
    def read(cls, values: Any) -> "Spent":
        """The three numbers as JSON has them; nothing where they are no such."""
        if not isinstance(values, list | tuple) or len(values) != len(cls._fields):
            return cls()
        numbers = [one for one in values if isinstance(one, int | float) and isfinite(one)]
        return cls(*numbers) if len(numbers) == len(values) else cls()

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(*(mine + its for mine, its in zip(self, other, strict=True)))

    def beyond(self, other: "Spent") -> "Spent":
        """The surplus over the other; never less than nothing."""
        return Spent(*(max(0.0, mine - its) for mine, its in zip(self, other, strict=True)))

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs together."""
        return self.gpu_s / 3600

    def cost(self, price_per_hour: float) -> float:
        """The cost by the price of a node's hour."""
        return self.node_s / 3600 * price_per_hour


NOTHING = Spent()
