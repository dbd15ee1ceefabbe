"""`report.html`: one file with all that it shows, for a run or for several.

Jinja2 escapes every text; the policy in the page's head lets the browser load nothing and run only
the scripts whose digests it names. Plotly stands in the page once, from the installed package.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import adapt
from adapt.report import compared, sections, texts
from adapt.report.run_record import RunRecord


def run_page(
    run: RunRecord,
    baseline: RunRecord | None = None,
    price_per_hour: float | None = None,
    currency: str | None = None,
) -> str:
    """The report of a run, its classes compared with those of a baseline, else with its own first
    evaluation. The price is the one that is given, else that of the run's spec."""
    spec = run.spec.get("report", {})
    price = spec.get("price_per_hour") if price_per_hour is None else price_per_hour
    paid = None if price is None else (price, currency or spec.get("currency", "USD"))
    return rendered("run.html", sections.of_run(run, baseline, paid))


def compare_page(runs: Sequence[RunRecord]) -> str:
    """One page for several runs; differences are to the first."""
    return rendered("compare.html", compared.of_runs(runs))


def rendered(template: str, content: dict[str, Any]) -> str:
    """A page from a template of `templates/` and its content, the charts among it."""
    plotly, draw, style = _plotly(), _asset("draw.js"), _asset("style.css")
    return (
        _environment()
        .get_template(template)
        .render(
            content
            | {
                "plotly": plotly,
                "draw": draw,
                "style": style,
                "script_digests": [_digest(plotly), _digest(draw)],
                "version": adapt.__version__,
            }
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("adapt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (texts.percent, texts.difference, texts.duration, texts.number, texts.count)
    environment.filters |= {one.__name__: one for one in names}
    return environment


@cache
def _plotly() -> str:
    """The library, as the installed package has it; the package itself takes a second to import."""
    spec = find_spec("plotly")
    assert spec is not None and spec.submodule_search_locations, "plotly is a dependency"
    folder = Path(spec.submodule_search_locations[0])
    return (folder / "package_data" / "plotly.min.js").read_text()


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text()


@cache
def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
