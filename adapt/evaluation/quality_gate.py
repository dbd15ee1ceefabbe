"""A student beside its teacher: how far below it is, and whether that is more than a job allows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from adapt.evaluation.protocol import TEACHER, metric_name

GATE = "method.max_gap_points"


class Gap(NamedTuple):
    """mIoU in [0, 1] of both networks in one evaluation, and the most points that are allowed."""

    student: float
    teacher: float
    most: float | None

    @property
    def points(self) -> float:
        """mIoU points that the student is below its teacher; negative above it."""
        return 100 * (self.teacher - self.student)

    @property
    def kept(self) -> bool:
        """True where the gap is no larger than allowed."""
        return self.most is None or self.points <= self.most

    def text(self) -> str:
        """The gap as a sentence without its full stop."""
        side = "below" if self.points >= 0 else "above"
        text = f"the student's mIoU, {self.student:.2%}, is {abs(self.points):.2f} points {side} "
        text += f"its teacher's, {self.teacher:.2%}"
        if self.most is None:
            return text
        verdict = "within" if self.kept else "more than"
        return f"{text}: {verdict} {GATE}, {self.most:g}"


def gap_of(metrics: Mapping[str, Any], network: str, method: Mapping[str, Any]) -> Gap | None:
    """The gap in an evaluation's `metrics` of `network` to the teacher, by a `method` section as
    plain values; None where they were not both scored by labels."""
    student = metrics.get(metric_name(network, "miou"))
    teacher = metrics.get(metric_name(TEACHER, "miou"))
    if student is None or teacher is None or student != student or teacher != teacher:
        return None
    return Gap(student, teacher, method.get("max_gap_points"))
