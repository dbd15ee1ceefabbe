"""The page of a sweep: the trials' scores, and what each key has to do with them."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from adapt.report import trials as charts
from adapt.report.page import rendered
from adapt.sweep.result import Row
from adapt.sweep.space import Space
from adapt.sweep.study import sign_of


def sweep_page(
    name: str, study: optuna.Study, space: Space, rows: Sequence[Row], score: str
) -> str:
    """The page as one HTML file that loads nothing."""
    keys = [one.name for one in space.dimensions]
    return rendered(
        "trials.html",
        charts.of_trials(
            name,
            score,
            keys,
            [charts.Trial(row.run, row.result, row.score, row.step, row.drawn) for row in rows],
            importance_of(study),
            {one.name for one in space.dimensions if one.log},
            sign_of(study),
        ),
    )


def importance_of(study: optuna.Study) -> dict[str, float]:
    """The share of each key in the scores (PED-ANOVA, Watanabe et al. 2023); empty where there are
    too few trials, or none of their keys is common to all."""
    done = [one for one in study.get_trials(deepcopy=False) if one.state.name == "COMPLETE"]
    if len(done) < 4 or len({one.value for one in done}) < 2:
        return {}
    evaluator: Any = PedAnovaImportanceEvaluator()
    try:
        found = get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):
        return {}
    return {name: float(value) for name, value in found.items() if value == value}
