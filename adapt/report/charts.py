"""Charts of Plotly as plain data: curves, bars by class, confusion matrices.

Plotly reads texts as a kind of HTML, so every name is escaped here. Colours of text and paper are
the page's, which sets them by its scheme.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

Points = Mapping[int, float | None]
Figure = dict[str, Any]

COLOURS = ("#0b84c4", "#e08a00", "#0a9a74", "#c9629c", "#8a6fd1", "#d55e00", "#7a8a1e", "#5a6b7b")
"""Of runs and lines, in order; after those of Okabe and Ito, for people who see few colours."""
_LOG_RATIO = 50.0
_MARKED = 40
_BAR_PX, _BARS_PX = 24, 110
_LONGEST = 32


def curves(lines: Mapping[str, Points], label: str, *, percent: bool = False) -> Figure:
    """A line for each name: step -> value. Losses whose values span decades get a log axis."""
    traces = []
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(points) <= _MARKED else "lines",
                "name": shown_name(name),
                "x": list(points),
                "y": [_scaled(value, percent) for value in points.values()],
                "line": {"color": colour, "width": 2, **_dash(number)},
                "marker": {"size": 5},
                "hovertemplate": "step %{x}: %{y:.4g}" + ("&nbsp;%" if percent else ""),
            }
        )
    values = [value for points in lines.values() for value in points.values() if value is not None]
    axis: dict[str, Any] = {"ticksuffix": " %"} if percent else {"exponentformat": "power"}
    if not percent and values and 0 < min(values) * _LOG_RATIO < max(values):
        axis |= {"type": "log", "dtick": 1}
    layout = {"xaxis": {"title": {"text": "step"}, "rangemode": "tozero"}, "yaxis": axis}
    height_px = 260 if len(lines) <= 1 else 320 + 8 * len(lines)
    return figure(traces, layout, label, height_px)


def class_bars(bars: Mapping[str, Mapping[str, float | None]], label: str) -> Figure:
    """IoU by class, a bar for each name: {name: {class: IoU in [0, 1]}}. The classes stand in the
    order of the first name's."""
    classes = list(next(iter(bars.values())))
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": shown_name(name),
            "y": [shown_name(one) for one in classes],
            "x": [_scaled(values.get(one), percent=True) for one in classes],
            "marker": {
                "color": COLOURS[number % len(COLOURS)],
                "opacity": 1 if not number else 0.6,
            },
            "hovertemplate": "%{y}: %{x:.2f}&nbsp;%",
        }
        for number, (name, values) in enumerate(bars.items())
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"range": [0, 100], "ticksuffix": " %"},
        "yaxis": {"autorange": "reversed", "automargin": True, "dtick": 1},
    }
    height_px = _BARS_PX + len(classes) * (_BAR_PX + 8 * max(0, len(bars) - 2))
    return figure(traces, layout, label, height_px)


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], label: str) -> Figure:
    """Shares of the predicted classes among each true class's pixels, in percent."""
    shares = normalised(matrix)
    known = [shown_name(name) for name in names]
    trace = {
        "type": "heatmap",
        "x": known,
        "y": known,
        "z": [[_scaled(value, percent=True) for value in row] for row in shares],
        "zmin": 0,
        "zmax": 100,
        "colorscale": "Blues",
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y} taken for %{x}: %{z:.2f}&nbsp;%<extra></extra>",
        "colorbar": {"ticksuffix": " %", "thickness": 12},
    }
    if len(names) <= 12:
        trace |= {"texttemplate": "%{z:.0f}", "textfont": {"size": 11}}
    side = {"automargin": True, "dtick": 1, "tickfont": {"size": 11}}
    layout = {
        "xaxis": {**side, "title": {"text": "predicted", "standoff": 10}, "tickangle": -90},
        "yaxis": {**side, "title": {"text": "truth", "standoff": 10}, "autorange": "reversed"},
    }
    return figure([trace], layout, label, height_px=220 + 22 * len(names))


def normalised(matrix: Sequence[Sequence[int]]) -> list[list[float | None]]:
    """Rows divided by their sums; None for a class without a pixel."""
    counts: Tensor = torch.tensor(matrix, dtype=torch.float64)
    shares = counts / counts.sum(dim=1, keepdim=True)
    return [[_known(value) for value in row] for row in shares.tolist()]


def shown_name(name: str) -> str:
    """A name for Plotly: escaped, and the beginning of a long one."""
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return escape(short, quote=False)


def _known(value: float) -> float | None:
    return value if value == value else None


def _scaled(value: float | None, percent: bool) -> float | None:
    if value is None:
        return None
    return round(100 * value, 3) if percent else value


def _dash(number: int) -> dict[str, str]:
    """The form of a line too says whose it is."""
    return {"dash": ("solid", "dash", "dot", "dashdot")[number % 4]}


def figure(
    traces: list[dict[str, Any]], layout: dict[str, Any], label: str, height_px: int
) -> Figure:
    """A chart of traces of Plotly; `label` says what it shows, several traces get a legend."""
    named = len(traces) > 1
    layout = {
        "showlegend": named,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "margin": {"l": 52, "r": 12, "t": 28 if named else 12, "b": 42},
        **layout,
    }
    return {"data": traces, "layout": layout, "height": height_px, "label": label}
