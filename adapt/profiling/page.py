"""The page of a profile: one file, made as a run's report is."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.profiling.advice import advise
from adapt.profiling.profile import Profile
from adapt.profiling.timeline import KINDS
from adapt.profiling.trace import Operator
from adapt.report.charts import COLOURS, Figure, figure
from adapt.report.page import rendered
from adapt.report.sections import add
from adapt.report.texts import NONE, duration, percent

ROWS = 25
_LONGEST = 110
START_KINDS = {
    "start-up": "until the first step waits for its data",
    "steps": "the steps themselves",
}
"""Those of a whole start that a traced step has not."""


def profile_page(profile: Profile) -> str:
    """The page of a profile."""
    figures: list[Figure] = []
    return rendered("profile.html", _content(profile, figures) | {"figures": figures})


def _content(profile: Profile, figures: list[Figure]) -> dict[str, Any]:
    chart = share_bar(profile.spent_s, profile.steps)
    return {
        "title": f"{profile.name}: profile of {_steps_text(profile)}",
        "lead": _lead(profile),
        "facts": _facts(profile),
        "advice": advise(profile),
        "shares": add(figures, chart),
        "rows": _rows(profile.spent_s, profile.steps),
        "whole": _rows(profile.start_s, 1),
        "operators": _table(profile.operators, profile),
        "kernels": _table(profile.kernels, profile),
    }


def _steps_text(profile: Profile) -> str:
    first, last = profile.first_step + 1, profile.first_step + profile.steps
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _lead(profile: Profile) -> str:
    machine = profile.machine
    batches = " and ".join(f"{size} {domain}" for domain, size in machine.batch_sizes.items())
    ranks = "one rank" if machine.ranks == 1 else f"the leader of {machine.ranks} ranks"
    return f"{ranks} on {machine.device} in {machine.precision}, {batches} images a step."


def _facts(profile: Profile) -> list[tuple[str, str, str]]:
    untraced = profile.step_s
    idle = "by the kernels that ran"
    return [
        ("a step", NONE if untraced is None else duration(untraced), "before the trace"),
        ("traced", duration(profile.traced_s / profile.steps), "with the profiler, which slows it"),
        ("MFU", percent(profile.mfu, 0), "of the device's peak, before the trace"),
        *([] if profile.idle is None else [("GPU idle", percent(profile.idle, 0), idle)]),
    ]


def share_bar(spent_s: Mapping[str, float], steps: int) -> Figure:
    """A bar of the kinds, as long as their share."""
    whole_s = sum(spent_s.values())
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": kind,
            "y": ["a step"],
            "x": [round(100 * one_s / whole_s, 3)],
            "marker": {"color": COLOURS[number % len(COLOURS)]},
            "hovertemplate": f"{kind}: {1000 * one_s / steps:.1f} ms, %{{x:.1f}}&nbsp;%"
            "<extra></extra>",
        }
        for number, (kind, one_s) in enumerate(_largest(spent_s))
    ]
    layout = {
        "barmode": "stack",
        "xaxis": {"range": [0, 100], "ticksuffix": " %"},
        "yaxis": {"visible": False},
        "margin": {"l": 12, "r": 12, "t": 64, "b": 42},
    }
    return figure(traces, layout, "Shares of the traced steps", 190)


def _largest(spent_s: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(spent_s.items(), key=lambda one: -one[1])


def _rows(spent_s: Mapping[str, float], steps: int) -> list[tuple[str, str, str, str]]:
    """Kind, share, time a step and meaning, the largest first."""
    whole_s = max(sum(spent_s.values()), 1e-12)
    meanings = KINDS | START_KINDS
    return [
        (kind, percent(one_s / whole_s, 1), _time(one_s / steps), meanings[kind])
        for kind, one_s in _largest(spent_s)
    ]


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms" if seconds < 1 else duration(seconds)


def _table(found: Sequence[Operator], profile: Profile) -> list[tuple[str, str, str, str]]:
    """Name, share, time a step and calls a step of the most expensive ones."""
    steps, whole_s = profile.steps, max(profile.traced_s, 1e-12)
    return [
        (
            one.name if len(one.name) <= _LONGEST else f"{one.name[: _LONGEST - 1]}…",
            percent(one.own_s / whole_s, 1),
            _time(one.own_s / steps),
            f"{one.calls / steps:g}",
        )
        for one in found[:ROWS]
    ]
