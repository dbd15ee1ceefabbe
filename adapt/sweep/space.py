"""The space of a sweep: the keys of a job spec that vary, and its points."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapt.errors import JobError


@dataclass(frozen=True)
class Dimension:
    """A key that varies: a range of whole or other numbers, or `choices` by label.

    `name` is that in the study: the key, with its `when` where the key has several entries. `when`:
    key -> labels, all of which must be chosen.
    """

    name: str
    key: str
    when: Mapping[str, tuple[str, ...]]
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    whole: bool = False
    choices: Mapping[str, Any] | None = None

    def value_of(self, drawn: Any) -> Any:
        """The spec's value of a drawn number or label."""
        return drawn if self.choices is None else self.choices[drawn]

    def ends(self) -> list[Any]:
        """The values to try: both ends of a range, or all labels."""
        return [self.low, self.high] if self.choices is None else list(self.choices)

    def points(self) -> list[Any] | None:
        """All values, where they end; None for a range without a step."""
        if self.choices is not None:
            return list(self.choices)
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return None
        count = round((self.high - self.low) / step) + 1
        return [self.low + number * step for number in range(count)]

    def text(self) -> str:
        """The range or the labels, for people."""
        if self.choices is not None:
            return ", ".join(self.choices)
        step = "" if self.step is None else f" by {self.step:g}"
        return f"{self.low:g} to {self.high:g}{step}{', log' if self.log else ''}"


Draw = Callable[[Dimension], Any]
"""A dimension -> a number or a label of it."""


class Drawn(NamedTuple):
    """One point of the space: what was drawn by the dimension's name, and the values by key."""

    drawn: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class Space:
    """All dimensions, each after those that its `when` names. `written` is the file's content."""

    dimensions: tuple[Dimension, ...]
    written: Mapping[str, Any]

    def draw(self, draw: Draw) -> Drawn:
        """Draw what counts; nothing of a dimension whose `when` does not hold."""
        labels: dict[str, Any] = {}
        drawn, values = {}, {}
        for one in self.dimensions:
            if all(labels.get(key) in wanted for key, wanted in one.when.items()):
                drawn[one.name] = draw(one)
                values[one.key] = one.value_of(drawn[one.name])
                if one.choices is not None:
                    labels[one.key] = drawn[one.name]
        return Drawn(drawn, values)

    def points(self) -> list[dict[str, Any]]:
        """Every point of a space that ends, in the order of the file: name -> number or label.

        Raises `JobError` for a range without a step.
        """
        found: list[dict[str, Any]] = [{}]
        for one in self.dimensions:
            values = one.points()
            if values is None:
                raise JobError(
                    f"--sampler: expected a space that ends for grid, got {one.key} without a step",
                    "give it a step or choices, or take random",
                )
            found = [more for point in found for more in self._with(point, one, values)]
        return found

    def _with(
        self, point: dict[str, Any], one: Dimension, values: list[Any]
    ) -> Iterator[dict[str, Any]]:
        by_key = {other.key: point[other.name] for other in self.dimensions if other.name in point}
        if all(by_key.get(key) in wanted for key, wanted in one.when.items()):
            yield from ({**point, one.name: value} for value in values)
        else:
            yield point
