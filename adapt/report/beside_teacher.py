"""A student and the teacher that taught it, side by side: the same evaluations of both."""

from typing import Any

from adapt.evaluation.protocol import TEACHER, metric_name
from adapt.evaluation.quality_gate import gap_of
from adapt.report import charts
from adapt.report.history import VALIDATION
from adapt.report.run_record import RunRecord
from adapt.report.texts import difference, percent


def beside_teacher(run: RunRecord) -> dict[str, Any] | None:
    """Two charts, and a row for the mIoU and for each class of the last evaluation of both; None
    where no teacher was evaluated by labels."""
    evaluations = dict(sorted(run.history.curves[VALIDATION].rows.items()))
    found = {
        step: gap
        for step, values in evaluations.items()
        if (gap := gap_of(values, run.network, run.spec["method"])) is not None
    }
    if not found:
        return None
    last, gap = max(found), found[max(found)]
    lines = {
        "teacher": {step: one.teacher for step, one in found.items()},
        "student": {step: one.student for step, one in found.items()},
    }
    bars = {
        name: {
            one: evaluations[last].get(metric_name(network, f"iou/{one}")) for one in _names(run)
        }
        for name, network in (("teacher", TEACHER), ("student", run.network))
    }
    pairs: dict[str, tuple[float | None, float | None]] = {"mIoU": (gap.teacher, gap.student)}
    pairs |= {one: (bars["teacher"][one], bars["student"][one]) for one in _names(run)}
    return {
        "curve": charts.curves(lines, "mIoU of teacher and student over steps", percent=True),
        "bars": charts.class_bars(bars, f"IoU of each class at step {last}"),
        "rows": [
            (name, percent(teacher), percent(student), difference(student, teacher))
            for name, (teacher, student) in pairs.items()
        ],
        "text": f"At step {last} {gap.text()}.",
        "kept": gap.kept,
    }


def _names(run: RunRecord) -> tuple[str, ...]:
    return tuple(run.classes.names)
