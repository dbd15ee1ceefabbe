"""What `benchmarks/selection.py` computes of checkpoints: rank correlation, regret, its table."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from adapt.evaluation.label_free import LABEL_FREE_SCORES
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from benchmarks import selection
from benchmarks.methods import kept_for_selection
from benchmarks.selection_table import (
    AGREEMENT,
    ANY,
    LAST,
    Point,
    any_regret,
    bars,
    baselines,
    correlation,
    last_regret,
    regret,
    results,
    table,
)
from tests.trainer.jobs import job_of, run


def point(step: int, miou: float, run: str = "dacs-1", **scores: float | None) -> Point:
    method, seed = run.split("-")
    return Point(run, method, int(seed), step, miou, scores, {AGREEMENT: scores.get("pooled")})


RUN = [
    point(1, 0.2, nuclear_norm=0.5, mean_entropy=0.9, ensemble_agreement=0.7, pooled=0.3),
    point(2, 0.5, nuclear_norm=0.6, mean_entropy=0.3, ensemble_agreement=0.9, pooled=0.1),
    point(3, 0.4, nuclear_norm=0.9, mean_entropy=0.5, ensemble_agreement=0.8, pooled=0.2),
]


def test_by_hand() -> None:
    assert correlation(RUN, AGREEMENT) == pytest.approx(1)
    assert correlation(RUN, AGREEMENT, among=True) == pytest.approx(-1)
    assert correlation(RUN, "mean_entropy") == pytest.approx(1), "less is better"
    assert correlation(RUN, "nuclear_norm") == pytest.approx(0.5)
    assert regret(RUN, "nuclear_norm") == pytest.approx(10), "50 % less 40 %"
    assert regret(RUN, "mean_entropy") == pytest.approx(0)
    assert regret(RUN, AGREEMENT, among=True) == pytest.approx(30)
    assert last_regret(RUN) == pytest.approx(10)
    assert any_regret(RUN) == pytest.approx(50 - 110 / 3)


def test_what_has_no_number_does_not_choose() -> None:
    missing = [one._replace(scores={"correlation": None}) for one in RUN]
    assert regret(missing, "correlation") is None and correlation(missing, "correlation") is None
    missing[0] = missing[0]._replace(scores={"correlation": 0.1})
    assert regret(missing, "correlation") == pytest.approx(30)


def test_a_run_of_one_checkpoint_leaves_no_choice() -> None:
    single = [point(3, 0.4, run, nuclear_norm=0.9) for run in ("fda-1", "mic-1")]
    within, among = results(single)["nuclear_norm"]
    assert within == (None, None, None) and among.regret == pytest.approx(0)
    both = results([*RUN, *single])["nuclear_norm"][0]
    assert both == results(RUN)["nuclear_norm"][0], "such runs do not count"
    assert baselines(single)[LAST][0].regret is None


def test_the_table_starts_with_what_costs_least() -> None:
    other = [one._replace(run="fda-1", method="fda", miou=one.miou / 2) for one in RUN]
    lines = table(RUN + other).splitlines()
    names = [line.split(" | ")[0].strip("| `") for line in lines[2 : 2 + len(results(RUN)) + 2]]
    assert names[0] == "mean_entropy" and names[-2:] == [LAST, ANY]
    assert set(names) == {AGREEMENT, *LABEL_FREE_SCORES, LAST, ANY}
    assert lines[2].startswith("| `mean_entropy` | +1.00 | 0.0 | 0.0 |")
    assert lines[-1] == "6 checkpoints of 2 runs, 2 methods, 1 seeds."
    last, _ = baselines(RUN + other)[LAST]
    assert last.regret == pytest.approx(7.5), "10 points of one run, 5 of the other"


def test_the_picture_has_a_row_for_each_score() -> None:
    texts = [one.text for one in ElementTree.fromstring(bars(RUN)).iter() if one.text]
    assert {AGREEMENT, *LABEL_FREE_SCORES, ANY} <= set(texts)


def test_runs_for_selection_log_everything_and_keep_every_evaluation(
    tiny_job: dict[str, Any],
) -> None:
    job = job_of(tiny_job, "evaluate.every_steps=3")
    kept: JobSpec = job_of(tiny_job, "evaluate.every_steps=3", *kept_for_selection(job))
    assert set(kept.evaluate.log_label_free) == set(LABEL_FREE_SCORES)
    assert (kept.checkpoint.every_steps, kept.checkpoint.keep) == (3, 1000)
    assert kept.train.ema is not None, "advent has no teacher"
    taught = job_of({**tiny_job, "method": {"name": "dacs"}})
    assert not any("train.ema" in one for one in kept_for_selection(taught))


@pytest.mark.slow
def test_the_checkpoints_of_a_run_are_read_with_all_their_scores(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("local", {}, tmp_path / "scratch", grace_s=120)
    rules = ("evaluate.every_steps=3", "method={name: source_only}")
    job = job_of(tiny_job, *rules, *kept_for_selection(job_of(tiny_job, *rules)))
    outcome, _ = run(job, place)
    monkeypatch.setattr(selection, "job_of", lambda *_: job)
    monkeypatch.setattr(selection, "find_place", lambda _: place)
    task: Any = None
    assert selection.ended(task, "source_only", 1)
    found = selection.points_of(task, "source_only", 1)
    points = selection.with_agreement(task, [found])
    assert [one.step for one in points] == [3, 6]
    assert points[1].miou == pytest.approx(outcome.metrics["miou"], rel=1e-6)
    for one in points:
        assert set(one.scores) == {AGREEMENT, *LABEL_FREE_SCORES}
        assert all(value is not None and 0 <= value <= 1 for value in one.scores.values())
        assert one.among[AGREEMENT] == one.scores[AGREEMENT], "there is but one run"
    assert AGREEMENT in table(points)
