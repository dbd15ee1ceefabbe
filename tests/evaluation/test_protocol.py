"""Which checkpoint counts, and the names of its figures."""

from typing import Any, get_args

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.evaluation.label_free import LABEL_FREE_SCORES
from adapt.evaluation.protocol import (
    AGREEMENT,
    PROTOCOLS,
    EvaluateConfig,
    Labelled,
    ScoreName,
    chosen_text,
    joined_metrics,
    sign,
)
from adapt.models.weights import NETWORK_WEIGHTS
from tests.trainer.jobs import job_of

RUNS = [(2, 0.3), (4, 0.5), (6, 0.4)]
"""Steps and scores of three checkpoints."""


@pytest.mark.parametrize(
    ("protocol", "select_by", "step"),
    [
        ("best", "miou", 4),
        ("best", "nuclear_norm", 4),
        ("best", "mean_entropy", 2),
        ("last", "mean_entropy", 6),
        ("last", None, 6),
    ],
)
def test_the_checkpoint_that_counts(protocol: str, select_by: str | None, step: int) -> None:
    config = validate(EvaluateConfig, {"protocol": protocol, "select_by": select_by})
    assert max(RUNS, key=lambda one: config.rank(*one))[0] == step


def test_a_score_that_is_not_named_depends_on_the_labels() -> None:
    config = EvaluateConfig()
    assert config.settled(labelled=True).score == "miou"
    assert config.settled(labelled=False).score == "ensemble_agreement"
    named = validate(EvaluateConfig, {"select_by": "correlation"})
    assert {named.settled(labelled).score for labelled in (True, False)} == {"correlation"}
    assert named.label_free_scores == ("correlation",)
    assert not validate(EvaluateConfig, {"select_by": AGREEMENT}).label_free_scores


def test_lower_values_are_better_of_entropy_alone() -> None:
    assert {name for name in get_args(ScoreName) if sign(name) < 0} == {"mean_entropy"}


def test_tables_have_a_row_for_every_choice_of_the_spec() -> None:
    fields = EvaluateConfig.model_fields
    assert set(get_args(fields["protocol"].annotation)) == set(PROTOCOLS)
    names = set(get_args(get_args(fields["select_by"].annotation)[0]))
    assert names == {*LABEL_FREE_SCORES, *get_args(Labelled), AGREEMENT} == set(get_args(ScoreName))
    assert EvaluateConfig(log_label_free=tuple(LABEL_FREE_SCORES)).label_free_scores
    assert set(get_args(fields["weights"].annotation)) == set(NETWORK_WEIGHTS)


def test_by_default_the_student_with_the_best_miou_counts() -> None:
    config = EvaluateConfig()
    assert (config.protocol, config.score, config.networks) == ("best", "miou", ("student",))
    assert config.label_free_scores == () and config.score_metric == "miou"
    assert validate(EvaluateConfig, {"weights": "ema"}).score_metric == "ema/miou"
    assert validate(EvaluateConfig, {"select_by": "miou"}).needs_labels


def test_the_average_is_evaluated_where_it_counts() -> None:
    for values in ({"ema": True}, {"weights": "ema"}):
        assert validate(EvaluateConfig, values).networks == ("student", "ema")


def test_figures_of_the_average_are_named_after_it() -> None:
    found = joined_metrics([("student", {"miou": 0.1}), ("ema", {"miou": 0.2, "x": 0.3})])
    assert found == {"miou": 0.1, "ema/miou": 0.2, "ema/x": 0.3}


def test_tables_say_how_a_figure_was_chosen() -> None:
    assert chosen_text("best", "miou", "student") == "best by miou, student"
    assert chosen_text("last", "miou", "ema") == "last, ema"
    scored = "best by mean_entropy, student"
    assert chosen_text("best", "mean_entropy", "student") == scored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["evaluate.protocol=first"], r"evaluate.protocol: expected .*'first'"),
        (["evaluate.weights=teacher"], r"evaluate.weights: expected .*'teacher'"),
        (
            ["evaluate.ema=true"],
            r"evaluate.ema: expected a moving average .* got none: method advent has no teacher. "
            r"Fix: add train.ema: \{alpha: 0.999\}",
        ),
        (["evaluate.weights=ema"], r"evaluate.weights: expected a moving average"),
        (
            ["evaluate.select_by=ensemble_agreement", "validation=null"],
            r"evaluate.select_by: expected a validation split for ensemble_agreement, got none. "
            r"Fix: add the section validation; .* labels are not needed",
        ),
        (
            ["evaluate.early_stop={}", "validation=null"],
            r"evaluate.early_stop: expected a validation split to see gains on, got none",
        ),
        (["evaluate.early_stop.patience=0"], r"evaluate.early_stop.patience: expected .* 0"),
        (["evaluate.select_by=loss"], r"evaluate.select_by: expected .*'loss'"),
        (["train.ema.alpha=1"], r"train.ema.alpha: expected a number >= 0 and < 1, got 1"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(
    tiny_job: dict[str, Any], changes: list[str], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        job_of(tiny_job, *changes)


def test_a_teacher_or_an_own_average_can_be_evaluated(tiny_job: dict[str, Any]) -> None:
    ema = "evaluate.ema=true"
    assert job_of(tiny_job, ema, "train.ema={}").train.ema is not None
    masks = {"name": "mic", "host": {"name": "source_only"}, "block_px": 16}
    teaching = {**tiny_job, "method": masks}
    assert job_of(teaching, ema).evaluate.networks == ("student", "ema")


def test_without_labels_the_classes_need_no_ids_for_the_split(tiny_job: dict[str, Any]) -> None:
    other = "validation={dataset: other, uri: there, split: train}"
    for free in ("correlation", "ensemble_agreement"):
        assert job_of(tiny_job, other, f"evaluate.select_by={free}").validation is not None
    target = "target.dataset=other"
    assert job_of(tiny_job, other, target).evaluate.select_by is None
    for labelled in ([], [target, "evaluate.select_by=miou"]):
        with pytest.raises(JobError, match=r"validation.dataset: .*other"):
            job_of(tiny_job, other, *labelled)
