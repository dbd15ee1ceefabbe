"""The content of a run's page, section by section, as plain data for the template."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from adapt.evaluation.protocol import WITH_LABELS, chosen_text
from adapt.report import charts
from adapt.report.beside_teacher import beside_teacher
from adapt.report.history import TRAIN, VALIDATION
from adapt.report.run_record import RunRecord
from adapt.report.texts import NONE, difference, duration, percent
from storage.uris import without_password

Fact = tuple[str, str]
Price = tuple[float, str]
"""Of one node an hour, and its currency."""

LOSS, RATE, SPEED, SPENT = "train/loss.", "train/lr.", "speed/", "spent/"
MFU = "speed/mfu"
_IOU = "iou/"


def of_run(run: RunRecord, baseline: RunRecord | None, price: Price | None) -> dict[str, Any]:
    """All values of the template `run.html`."""
    figures: list[charts.Figure] = []
    return {
        "title": run.name,
        "lead": lead(run),
        "facts": facts(run, price),
        "scores": _scores(run, figures),
        "classes": _classes(run, baseline, figures),
        "beside": _beside(run, figures),
        "losses": curve_groups([run], LOSS, figures),
        "rates": curve_groups([run], RATE, figures),
        "speeds": curve_groups([run], SPEED, figures),
        "spent": curve_groups([run], SPENT, figures),
        "confusion": _confusion(run, figures),
        "legend": legend(run),
        "pictures": _panels(run, "pictures"),
        "worst": _panels(run, "worst"),
        "spec_text": run.spec_text,
        "sessions": run.history.sessions,
        "versions": versions(run),
        "data": data(run),
        "figures": figures,
    }


def _beside(run: RunRecord, figures: list[charts.Figure]) -> dict[str, Any] | None:
    """The student beside its teacher."""
    found = beside_teacher(run)
    drawn = () if found is None else ("curve", "bars")
    return found and {**found, **{name: add(figures, found[name]) for name in drawn}}


def lead(run: RunRecord) -> str:
    """The run in a sentence."""
    spec = run.spec
    domains = [_datasets(spec.get(key)) for key in ("source", "target")]
    pair = " to ".join(one for one in domains if one)
    model, early = spec["model"], run.history.stopped_early
    done = "finished" if run.step >= run.steps else "not finished"
    done = done if early is None else f"stopped early: {early}"
    return (
        f"{spec['method']['name']} on {model['architecture']} ({model['encoder']}): {pair}; "
        f"step {run.step} of {run.steps}, {done}."
    )


def _datasets(section: Any) -> str:
    parts = section if isinstance(section, list) else [section] if section else []
    return " and ".join(str(part["dataset"]) for part in parts)


def score(run: RunRecord) -> tuple[str, float | None, str]:
    """The score that chooses the checkpoint: its name, its value, and how it was chosen."""
    rules, shown = run.spec.get("evaluate", {}), run.shown
    protocol, name = rules.get("protocol", "best"), str(rules.get("select_by") or WITH_LABELS)
    value = None if shown is None else shown["record"].get(name)
    step = "" if shown is None else f", step {shown['step']}"
    return name, value, f"{chosen_text(protocol, name, run.network)}{step}"


def facts(run: RunRecord, price: Price | None) -> list[tuple[str, str, str]]:
    """The cards at the head: title, value, note."""
    name, value, chosen = score(run)
    sessions, spent = len(run.history.sessions), run.spent
    found = [
        (name, percent(value), chosen),
        ("steps", f"{run.step}", f"of {run.steps}"),
        ("time", duration(spent.seconds), "1 session" if sessions == 1 else f"{sessions} sessions"),
        ("GPU-hours", f"{spent.gpu_hours:.2f}", _device(run)),
    ]
    shares = [value for value in curves_of(run, TRAIN, MFU).get("", {}).values() if value]
    if shares:
        note = "median share of the peak while training"
        found.append(("mfu", percent(median(shares)), note))
    if price is not None:
        per_hour, currency = price
        note = f"at {per_hour:g} {currency} a node an hour"
        found.append(("price", f"{spent.cost(per_hour):.2f} {currency}", note))
    return found


def _device(run: RunRecord) -> str:
    sessions = run.history.sessions
    if not sessions:
        return NONE
    last = sessions[-1]
    return f"{last['ranks']} x {last['gpu']}" if last["gpu"] else "on the CPU"


def _scores(run: RunRecord, figures: list[charts.Figure]) -> list[dict[str, Any]]:
    """Two charts: the scores, and the IoU of each class."""
    scores = curves_of(run, VALIDATION, "")
    plain = {name: points for name, points in scores.items() if _IOU not in name}
    prefix = _IOU if run.network == "student" else f"{run.network}/{_IOU}"
    classes = {
        name.removeprefix(prefix): points
        for name, points in scores.items()
        if name.startswith(prefix)
    }
    titled = (("Scores", plain), ("IoU of each class", classes))
    return [_percent_chart(title, lines, figures) for title, lines in titled if lines]


def _percent_chart(
    title: str, lines: Mapping[str, charts.Points], figures: list[charts.Figure]
) -> dict[str, Any]:
    label = f"{title} over steps, in percent"
    shown = add(figures, charts.curves(lines, label, percent=True))
    rows = [(name, *(percent(value) for value in ends(points))) for name, points in lines.items()]
    return {"title": title, "figure": shown, "rows": rows}


def curves_of(run: RunRecord, kind: str, prefix: str) -> dict[str, dict[int, float | None]]:
    """The metrics of a kind whose names begin so, without it: name -> step -> value."""
    found: dict[str, dict[int, float | None]] = {}
    for step, values in sorted(run.history.curves[kind].rows.items()):
        for name, value in values.items():
            if name.startswith(prefix):
                found.setdefault(name.removeprefix(prefix), {})[step] = value
    return found


def ends(points: charts.Points) -> tuple[float | None, float | None, float | None, float | None]:
    """First, last, lowest and highest value of a curve."""
    known = [value for value in points.values() if value is not None]
    if not known:
        return None, None, None, None
    return known[0], known[-1], min(known), max(known)


def curve_groups(
    runs: Sequence[RunRecord], prefix: str, figures: list[charts.Figure]
) -> list[dict[str, Any]]:
    """A chart for each metric of training, a line for each run."""
    by_run = {run.name: curves_of(run, TRAIN, prefix) for run in runs}
    names = dict.fromkeys(name for found in by_run.values() for name in found)
    groups = []
    for name in names:
        lines = {run: found[name] for run, found in by_run.items() if name in found}
        shown = add(figures, charts.curves(lines, f"{name} over steps"))
        rows = [(run, *ends(points)) for run, points in lines.items()]
        groups.append({"title": name, "figure": shown, "rows": rows})
    return groups


def _classes(
    run: RunRecord, baseline: RunRecord | None, figures: list[charts.Figure]
) -> dict[str, Any] | None:
    """Bars of the classes from the highest IoU to the lowest, with what they are compared with."""
    found = run.shown_iou()
    if not found or run.shown is None:
        return None
    name, other = _compared_with(run, baseline)
    ranked = by_value(found)
    bars = {f"{run.name}, step {run.shown['step']}": ranked}
    bars |= {name: other} if other else {}
    shown = add(figures, charts.class_bars(bars, f"IoU of each class, compared with {name}"))
    heads, note = ["IoU"], "There is no other evaluation to compare with."
    rows = [(one, [percent(value)]) for one, value in ranked.items()]
    if other:
        heads, note = [*heads, name, "difference"], f"Compared with {name}."
        for one, cells in rows:
            cells += [percent(other.get(one)), difference(ranked[one], other.get(one))]
    return {"figure": shown, "heads": heads, "rows": rows, "note": note}


def _compared_with(
    run: RunRecord, baseline: RunRecord | None
) -> tuple[str, dict[str, float | None]]:
    if baseline is not None and baseline.shown is not None:
        return f"{baseline.name}, step {baseline.shown['step']}", baseline.shown_iou()
    step, first = run.first_iou()
    if run.shown is not None and step == run.shown["step"]:
        return "its only evaluation", {}
    return f"its first evaluation, step {step}", first


def by_value(found: Mapping[str, float | None]) -> dict[str, float | None]:
    """Classes from the highest IoU to the lowest; those that never occur come last."""
    ranked = sorted(found.items(), key=lambda one: -1.0 if one[1] is None else one[1], reverse=True)
    return dict(ranked)


def _confusion(run: RunRecord, figures: list[charts.Figure]) -> dict[str, Any] | None:
    record = {} if run.shown is None else run.shown["record"]
    matrix, names = record.get("matrix"), run.classes.names
    if not matrix:
        return None
    label = "Confusion matrix: rows are the true classes and sum to 100 %"
    shares = charts.normalised(matrix)
    return {
        "figure": add(figures, charts.confusion(matrix, names, label)),
        "names": names,
        "rows": list(zip(names, shares, strict=True)),
    }


def legend(run: RunRecord) -> list[tuple[str, str]]:
    """Names and colours of the classes, and that of ignored pixels."""
    colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in run.classes.colours)
    return [*zip(run.classes.names, colours, strict=True), ("ignored", "#000000")]


def _panels(run: RunRecord, key: str) -> list[dict[str, Any]]:
    return [] if run.shown is None else list(run.shown[key])


def versions(run: RunRecord) -> dict[str, str]:
    """Those of the last session."""
    return dict(run.history.sessions[-1]["versions"]) if run.history.sessions else {}


def data(run: RunRecord) -> list[dict[str, Any]]:
    """The packed splits of the last session, each with its key."""
    found = run.history.sessions[-1]["data"] if run.history.sessions else {}
    return [
        {"key": key, **one, "uri": without_password(str(one["uri"]))} for key, one in found.items()
    ]


def add(figures: list[charts.Figure], figure: charts.Figure) -> dict[str, Any]:
    """Keep a figure for the page's script; its place, height and label for the template."""
    figures.append({"data": figure["data"], "layout": figure["layout"]})
    return {"number": len(figures) - 1, "height": figure["height"], "label": figure["label"]}
