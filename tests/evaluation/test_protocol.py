"""Which checkpoint counts, and the names of its figures."""

from typing import Any, get_args

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.evaluation.label_free import LABEL_FREE_SCORES
from adapt.evaluation.protocol import (
    PROTOCOLS,
    EvaluateConfig,
    chosen_text,
    joined_metrics,
)
from adapt.models.weights import NETWORK_WEIGHTS
from tests.trainer.jobs import job_of

RUNS = [(2, 0.3), (4, 0.5), (6, 0.4)]
"""Steps and scores of three checkpoints."""


@pytest.mark.parametrize(("protocol", "step"), [("best", 4), ("last", 6), ("best_label_free", 4)])
def test_the_checkpoint_that_counts(protocol: str, step: int) -> None:
    config = EvaluateConfig.from_values({"protocol": protocol}, "evaluate")
    assert max(RUNS, key=lambda one: config.rank(*one))[0] == step


def test_tables_have_a_row_for_every_choice_of_the_spec() -> None:
    fields = EvaluateConfig.model_fields
    assert set(get_args(fields["protocol"].annotation)) == set(PROTOCOLS)
    assert set(get_args(fields["label_free"].annotation)) == set(LABEL_FREE_SCORES)
    assert EvaluateConfig(log_label_free=tuple(LABEL_FREE_SCORES)).label_free_scores
    assert set(get_args(fields["weights"].annotation)) == set(NETWORK_WEIGHTS)


def test_by_default_the_student_with_the_best_miou_counts() -> None:
    config = EvaluateConfig()
    assert (config.protocol, config.score, config.networks) == ("best", "miou", ("student",))
    assert config.needs_labels and config.label_free_scores == ()


def test_the_average_is_evaluated_where_it_counts() -> None:
    for values in ({"ema": True}, {"weights": "ema"}):
        assert validate(EvaluateConfig, values).networks == ("student", "ema")


def test_figures_of_the_average_are_named_after_it() -> None:
    found = joined_metrics([("student", {"miou": 0.1}), ("ema", {"miou": 0.2, "x": 0.3})])
    assert found == {"miou": 0.1, "ema/miou": 0.2, "ema/x": 0.3}


def test_tables_say_how_a_figure_was_chosen() -> None:
    assert chosen_text("best", "miou", "student") == "best by miou, student"
    assert chosen_text("last", "miou", "ema") == "last, ema"
    scored = "best_label_free by information_maximisation, student"
    assert chosen_text("best_label_free", "information_maximisation", "student") == scored


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
            ["evaluate.protocol=best_label_free", "validation=null"],
            r"evaluate.protocol: expected a validation split for best_label_free, got none. "
            r"Fix: add the section validation; .* labels are not needed",
        ),
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
    assert job_of(tiny_job, other, "evaluate.protocol=best_label_free").validation is not None
    with pytest.raises(JobError, match=r"validation.dataset: .*other"):
        job_of(tiny_job, other)
