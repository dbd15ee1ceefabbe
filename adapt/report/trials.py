"""The content of the page of a sweep's trials, as plain data for the template."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any, NamedTuple

from adapt.report import charts, sections
from adapt.report.texts import NONE


class Trial(NamedTuple):
    """A trial: its run, its result, its score in [0, 1], the step of its best checkpoint,
    and its values by key."""

    run: str
    result: str
    score: float | None
    step: int | None
    values: Mapping[str, Any]


def of_trials(
    title: str,
    score: str,
    keys: Sequence[str],
    trials: Sequence[Trial],
    importance: Mapping[str, float],
    logarithmic: set[str],
    better: int = 1,
) -> dict[str, Any]:
    """All values of the template `trials.html`. `importance`: share by key, empty where unknown;
    `better`: 1 where higher scores are better, -1 where lower ones are."""
    figures: list[charts.Figure] = []
    scored = [one for one in trials if one.score is not None]
    history = _history(sorted(scored, key=lambda one: one.run), score, better)
    parallel = _parallel(scored, keys, logarithmic, score)
    return {
        "title": f"Sweep {title}",
        "score": score,
        "keys": list(keys),
        "rows": [_row(one, keys) for one in trials],
        "history": sections.add(figures, history),
        "importance": sections.add(figures, _importance(importance)) if importance else None,
        "parallel": sections.add(figures, parallel) if scored else None,
        "slices": [
            {"title": key, "figure": sections.add(figures, _slice(scored, key, logarithmic, score))}
            for key in keys
            if any(key in one.values for one in scored)
        ],
        "figures": figures,
    }


def _row(one: Trial, keys: Sequence[str]) -> list[str]:
    shown = [_shown(one.values.get(key)) for key in keys]
    score = NONE if one.score is None else f"{one.score:.2%}"
    return [one.run, one.result, score, NONE if one.step is None else str(one.step), *shown]


def _shown(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _history(trials: Sequence[Trial], score: str, better: int) -> charts.Figure:
    """The score of each trial, and the best so far."""
    names = [one.run.rpartition("-")[2] for one in trials]
    values = [_percent(one) for one in trials]
    extreme = max if better > 0 else min
    best = [extreme(values[: end + 1]) for end in range(len(values))]
    trials_line = {"type": "scatter", "mode": "markers", "name": score, "x": names, "y": values}
    best_line = {"type": "scatter", "mode": "lines", "name": "best so far", "x": names, "y": best}
    axis = {"yaxis": {"ticksuffix": " %"}, "xaxis": {"title": {"text": "trial"}}}
    return charts.figure([trials_line, best_line], axis, f"{score} of each trial", 320)


def _importance(shares: Mapping[str, float]) -> charts.Figure:
    names = list(shares)
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [charts.shown_name(name) for name in names],
        "x": [round(100 * shares[name], 2) for name in names],
    }
    axis = {
        "yaxis": {"autorange": "reversed", "automargin": True},
        "xaxis": {"ticksuffix": " %"},
    }
    return charts.figure([bar], axis, "Importance of each key", 120 + 28 * len(names))


def _parallel(
    trials: Sequence[Trial], keys: Sequence[str], logarithmic: set[str], score: str
) -> charts.Figure:
    """A line a trial through its values, coloured by its score."""
    axes = [_axis(trials, key, key in logarithmic) for key in keys]
    colours = [_percent(one) for one in trials]
    trace = {
        "type": "parcoords",
        "dimensions": [*axes, {"label": f"{score} %", "values": colours}],
        "line": {"color": colours, "colorscale": "Viridis", "showscale": True},
    }
    layout = {"margin": {"l": 90, "r": 40, "t": 60, "b": 30}}
    return charts.figure([trace], layout, "Every key and the score of each trial", 420)


def _axis(trials: Sequence[Trial], key: str, is_log: bool) -> dict[str, Any]:
    """A vertical axis: numbers, exponents, or names at whole numbers; a key that a trial has not
    stands below all others."""
    values = [one.values.get(key) for one in trials]
    label = charts.shown_name(f"{key} (log10)" if is_log else key)
    numbers = [one for one in values if isinstance(one, int | float)]
    if len(numbers) == len(values):
        return {"label": label, "values": [log10(v) if is_log else v for v in numbers]}
    names = sorted({_shown(one) for one in values})
    places = [names.index(_shown(one)) for one in values]
    ticks = {"tickvals": list(range(len(names))), "ticktext": [*map(charts.shown_name, names)]}
    return {"label": label, "values": places, **ticks}


def _slice(trials: Sequence[Trial], key: str, logarithmic: set[str], score: str) -> charts.Figure:
    """The score of each trial by its value of one key."""
    have = [one for one in trials if key in one.values]
    values = [one.values[key] for one in have]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [charts.shown_name(v) if isinstance(v, str) else v for v in values],
        "y": [_percent(one) for one in have],
        "text": [one.run for one in have],
        "hovertemplate": "%{text}: %{y:.2f}&nbsp;% at %{x}<extra></extra>",
    }
    axis: dict[str, Any] = {"yaxis": {"ticksuffix": " %"}}
    if key in logarithmic:
        axis["xaxis"] = {"type": "log", "exponentformat": "power"}
    return charts.figure([trace], axis, f"{score} by {key}", 260)


def _percent(one: Trial) -> float:
    assert one.score is not None, "trials without a score are left out"
    return round(100 * one.score, 3)
