"""The charts of the page, as plain data for Plotly."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from adapt.gap.divergence import shares
from adapt.gap.frequencies import EDGES
from adapt.report.charts import COLOURS, Figure, figure, shown_name

SOURCE, TARGET = "source", "target"


def lightness_chart(source: Tensor, target: Tensor) -> Figure:
    """Shares of the pixels by lightness, (50,) twice."""
    values = [100 * (bin_ + 0.5) / len(source) for bin_ in range(len(source))]
    return _lines(values, {SOURCE: source, TARGET: target}, "lightness L*", "Pixels by lightness")


def entropy_chart(source: Tensor, target: Tensor, when: str) -> Figure:
    """Shares of the pixels by entropy over the largest possible, (20,) twice."""
    values = [(bin_ + 0.5) / len(source) for bin_ in range(len(source))]
    label = f"Pixels by entropy, {when}"
    return _lines(values, {SOURCE: source, TARGET: target}, "entropy, 1 is undecided", label)


def _lines(values: Sequence[float], counts: Mapping[str, Tensor], title: str, label: str) -> Figure:
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [round(value, 4) for value in values],
            "y": [round(100 * share, 3) for share in shares(one).tolist()],
            "line": {"color": COLOURS[number], "width": 2, "dash": ("solid", "dash")[number]},
            "fill": "tozeroy",
        }
        for number, (name, one) in enumerate(counts.items())
    ]
    layout = {"xaxis": {"title": {"text": title}}, "yaxis": {"ticksuffix": " %"}}
    return figure(traces, layout, label, 280)


def spectrum_chart(source: Tensor, target: Tensor) -> Figure:
    """Log10 amplitudes by band, (11,) twice."""
    names = [f"to {edge:g}" for edge in EDGES[1:]]
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": names,
            "y": [_known(value) for value in one.tolist()],
            "line": {"color": COLOURS[number], "width": 2, "dash": ("solid", "dash")[number]},
        }
        for number, (name, one) in enumerate({SOURCE: source, TARGET: target}.items())
    ]
    layout = {
        "xaxis": {"title": {"text": "cycles a pixel"}, "type": "category"},
        "yaxis": {"title": {"text": "log10 amplitude"}},
    }
    return figure(traces, layout, "Amplitude by spatial frequency", 300)


def layer_chart(values: Mapping[str, Sequence[float]], layers: Sequence[str]) -> Figure:
    """A-distance by layer, a bar for each name."""
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": list(layers),
            "y": [round(value, 4) for value in one],
            "marker": {"color": COLOURS[number]},
        }
        for number, (name, one) in enumerate(values.items())
    ]
    layout = {"barmode": "group", "yaxis": {"range": [0, 2], "title": {"text": "A-distance"}}}
    return figure(traces, layout, "Proxy A-distance by layer of the encoder", 300)


def share_chart(values: Mapping[str, Sequence[float]], classes: Sequence[str]) -> Figure:
    """Class shares, a bar for each name."""
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [shown_name(one) for one in classes],
            "x": [round(100 * value, 3) for value in one],
            "marker": {"color": COLOURS[number]},
        }
        for number, (name, one) in enumerate(values.items())
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"ticksuffix": " %"},
        "yaxis": {"autorange": "reversed", "automargin": True, "dtick": 1},
    }
    return figure(traces, layout, "Class shares", 110 + 34 * len(classes))


def _known(value: float) -> float | None:
    return round(value, 4) if value == value else None
