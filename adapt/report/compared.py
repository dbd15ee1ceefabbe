"""The content of the page that compares several runs, as plain data for the template."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.report import charts, sections
from adapt.report.history import VALIDATION
from adapt.report.run_record import RunRecord
from adapt.report.texts import NONE, percent

_SAME = ("name", "stores", "tracking", "checkpoint", "report")
"""Sections of a spec that change no result."""


def of_runs(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """All values of the template `compare.html`."""
    runs = with_own_names(runs)
    figures: list[charts.Figure] = []
    return {
        "title": "Runs compared",
        "names": [run.name for run in runs],
        "runs": [_row(run, runs[0]) for run in runs],
        "scores": _scores(runs, figures),
        "classes": _classes(runs, figures),
        "losses": sections.curve_groups(runs, sections.LOSS, figures),
        "speeds": sections.curve_groups(runs, sections.SPEED, figures),
        "pictures": _pictures(runs),
        "legend": sections.legend(runs[0]),
        "differences": _differences(runs),
        "versions": _table([sections.versions(run) for run in runs]),
        "data": _table([_fingerprints(run) for run in runs]),
        "figures": figures,
    }


def with_own_names(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs, those of a common name numbered."""
    counts, seen = Counter(run.name for run in runs), Counter[str]()
    named = []
    for run in runs:
        seen[run.name] += 1
        own = f"{run.name} ({seen[run.name]})" if counts[run.name] > 1 else run.name
        named.append(run._replace(name=own))
    return named


def _row(run: RunRecord, first: RunRecord) -> dict[str, Any]:
    name, value, chosen = sections.score(run)
    same = sections.score(first)[0] == name
    return {
        "name": run.name,
        "lead": sections.lead(run),
        "score": f"{percent(value)} {name}",
        "chosen": chosen,
        "value": value,
        "first": sections.score(first)[1] if same else None,
        "seconds": run.spent.seconds,
        "gpu_hours": run.spent.gpu_hours,
        "uri": run.uri,
    }


def _scores(runs: Sequence[RunRecord], figures: list[charts.Figure]) -> list[dict[str, Any]]:
    """A chart for each score, a line for each run."""
    by_run = {run.name: sections.curves_of(run, VALIDATION, "") for run in runs}
    names = dict.fromkeys(one for found in by_run.values() for one in found if "iou/" not in one)
    charted = []
    for name in names:
        lines = {run: found[name] for run, found in by_run.items() if name in found}
        figure = charts.curves(lines, f"{name} over steps, in percent", percent=True)
        rows = [(run, *map(percent, sections.ends(points))) for run, points in lines.items()]
        charted.append({"title": name, "figure": sections.add(figures, figure), "rows": rows})
    return charted


def _classes(runs: Sequence[RunRecord], figures: list[charts.Figure]) -> dict[str, Any] | None:
    """Bars of the classes, a bar for each run, in the order of the first run's."""
    found = {run.name: run.shown_iou() for run in runs if run.shown_iou()}
    if not found:
        return None
    every = {one: None for values in found.values() for one in values}
    first = next(iter(found.values()))
    ranked = sections.by_value({one: first.get(one) for one in every})
    bars = {run: {one: values.get(one) for one in ranked} for run, values in found.items()}
    figure = charts.class_bars(bars, "IoU of each class by run")
    rows = [(one, [percent(bars[run][one]) for run in bars]) for one in ranked]
    shown = sections.add(figures, figure)
    return {"figure": shown, "heads": list(bars), "rows": rows, "note": None}


def _pictures(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The validation images that all runs show, with each run's prediction."""
    if any(run.shown is None for run in runs) or len({run.classes.names for run in runs}) > 1:
        return []
    shown = [{one["key"]: one for one in (run.shown or {})["pictures"]} for run in runs]
    common = [key for key in shown[0] if all(key in one for one in shown)]
    return [
        {
            **shown[0][key],
            "by_run": [
                (run.name, one[key]["prediction"], one[key]["miou"])
                for run, one in zip(runs, shown, strict=True)
            ],
        }
        for key in common
    ]


def _differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """The keys of the specs whose values differ, with each run's."""
    flat = [_flat({k: v for k, v in run.spec.items() if k not in _SAME}) for run in runs]
    return [(key, values) for key, values in _table(flat) if len(set(values)) > 1]


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, list) and any(isinstance(one, dict) for one in values):
        values = dict(enumerate(values))
    if not isinstance(values, Mapping) or not values:
        return {prefix: "null" if values is None else str(values)}
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _table(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """A row for each key that any column has."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return [(key, [column.get(key, NONE) for column in columns]) for key in keys]


def _fingerprints(run: RunRecord) -> dict[str, str]:
    return {
        one["key"]: f"{one['dataset']}/{one['split']}, {one['samples']} samples, "
        f"{str(one['fingerprint'])[:12]}"
        for one in sections.data(run)
    }
