"""The lines of a history's file by kind, as far as a report computes with them.

There may be more keys, and fewer in older versions.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from adapt.config.validation import validate
from adapt.errors import JobError


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)


class Session(_Entry):
    """A start of the job."""

    device: str
    seconds: float
    unsaved: list[float] = []
    step: int = 0
    nodes: int = 1
    ranks: int = 1
    gpu: str | None = None
    versions: dict[str, str] = {}
    stopped_early: str | None = None
    data: dict[str, dict[str, Any]] = {}


class Panel(_Entry):
    """A picture of an evaluation."""

    key: str
    miou: float | None = None


class Scores(_Entry):
    """The scores of an evaluation."""

    miou: float | None = None
    pixel_accuracy: float | None = None
    iou: dict[str, float | None] = {}
    matrix: list[list[float]] | None = None


class Evaluation(_Entry):
    """An evaluation to show."""

    marks: list[str]
    step: int
    rank: float | None = None
    record: Scores = Scores()
    pictures: list[Panel] = []
    worst: list[Panel] = []


class CurveFacts(_Entry):
    """How often a curve was thinned out."""

    name: str
    seen: int
    stride: int


class CurveRow(_Entry):
    """The metrics of a step."""

    step: int
    values: dict[str, float | None]


KINDS: dict[str, type[_Entry]] = {
    "session": Session,
    "evaluation": Evaluation,
    "curve": CurveFacts,
    "train": CurveRow,
    "validation": CurveRow,
}
"""The keys of a line by its kind."""


def check_entry(entry: Any, number: int) -> None:
    """Raise `ValueError` for an entry that is none of a history; `number` is that of its line."""
    kind = KINDS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
    if kind is None:
        raise ValueError(f"line {number}: expected one of {', '.join(KINDS)}, got another line")
    try:
        kind.model_validate(entry)
    except ValidationError as error:
        try:
            validate(kind, entry, f"line {number}")
        except JobError as told:
            raise ValueError(told.problem) from error
        raise ValueError(f"line {number}: {error}") from error
