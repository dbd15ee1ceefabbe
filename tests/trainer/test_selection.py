"""The choice among evaluations, and when a run has gained enough: by hand, step for step."""

from math import nan

import pytest

from adapt.config.validation import validate
from adapt.evaluation.protocol import EvaluateConfig
from adapt.trainer.selection import (
    Candidate,
    Selection,
    after_evaluation,
    early_stop_text,
    spared,
)


def rules(**values: object) -> EvaluateConfig:
    return validate(EvaluateConfig, values)


def alone(config: EvaluateConfig, *scores: float) -> list[Selection]:
    """The selections after evaluations with these scores at steps 10, 20 and so on."""
    found, before = [], Selection()
    for number, score in enumerate(scores, 1):
        now = Candidate(10 * number, {config.score_metric: score})
        before = after_evaluation(before, config, now, {}, keep=2)
        found.append(before)
    return found


def test_evaluations_without_a_gain_are_counted() -> None:
    config = rules(early_stop={"patience": 2})
    found = alone(config, 0.3, 0.5, 0.5, nan, 0.51)
    assert [one.waited for one in found] == [0, 0, 1, 2, 0]
    assert [one.enough(config) for one in found] == [False, False, False, True, False]
    assert not found[3].enough(rules()), "without early_stop nothing ends"


def test_a_gain_is_more_than_min_delta_over_the_last_gain() -> None:
    config = rules(early_stop={"patience": 2, "min_delta": 0.1})
    found = alone(config, 0.3, 0.38, 0.41, 0.45)
    assert [one.waited for one in found] == [0, 1, 0, 1], "0.38 is no gain, 0.41 is one over 0.3"


def test_of_entropy_less_is_a_gain() -> None:
    config = rules(select_by="mean_entropy", early_stop={"patience": 1})
    assert [one.waited for one in alone(config, 0.5, 0.4, 0.45)] == [0, 0, 1]


def test_the_average_s_score_counts_where_it_is_the_network_that_counts() -> None:
    config = rules(weights="ema", early_stop={"patience": 1})
    assert config.score_metric == "ema/miou"
    assert [one.waited for one in alone(config, 0.5, 0.4)] == [0, 1]


def test_an_evaluation_that_is_repeated_after_a_kill_counts_once() -> None:
    config = rules(early_stop={"patience": 1})
    (before,) = alone(config, 0.4)
    again = after_evaluation(before, config, Candidate(10, {"miou": 0.4}), {}, keep=2)
    assert again == before and again.waited == 0


def among(*rounds: dict[int, float], keep: int = 2, **values: object) -> list[Selection]:
    """The selections after evaluations whose candidates agreed so; of each the last step is new."""
    config = rules(select_by="ensemble_agreement", **values)
    found, before = [], Selection()
    for agreed in rounds:
        now = Candidate(max(agreed), {"ensemble_agreement": agreed[max(agreed)]})
        before = after_evaluation(before, config, now, agreed, keep)
        found.append(before)
    return found


def test_the_choice_may_fall_on_an_earlier_checkpoint() -> None:
    found = among(
        {10: 1.0}, {10: 0.7, 20: 0.8}, {10: 0.5, 20: 0.9, 30: 0.6}, {20: 0.6, 30: 0.7, 40: 0.8}
    )
    assert [(one.chosen, one.score) for one in found] == [
        (10, 1.0),
        (20, 0.8),
        (20, 0.9),
        (40, 0.8),
    ]
    assert [list(spared(one)) for one in found] == [[10], [10, 20], [20, 30], [30, 40]]
    assert [one.waited for one in found] == [0, 0, 1, 0]
    assert found[2].of(20) == Candidate(20, {"ensemble_agreement": 0.8})


def test_the_chosen_one_stays_a_candidate_beside_the_newest() -> None:
    rounds = {10: 1.0}, {10: 0.9, 20: 0.8}, {10: 0.9, 20: 0.8, 30: 0.7}, {10: 0.9, 30: 0.7, 40: 0.7}
    assert list(spared(among(*rounds)[-1])) == [10, 30, 40]


def test_of_equal_ones_the_later_is_chosen() -> None:
    assert among({10: 0.8, 20: 0.8})[0].chosen == 20


def test_the_last_one_counts_where_the_protocol_says_so() -> None:
    found = among({10: 1.0}, {10: 0.9, 20: 0.8}, protocol="last", early_stop={"patience": 1})
    assert (found[1].chosen, found[1].score, found[1].waited) == (20, 0.8, 1)


def test_a_gain_by_agreement_is_over_every_earlier_candidate() -> None:
    found = among({10: 1.0}, {10: 0.7, 20: 0.75}, early_stop={"patience": 1, "min_delta": 0.1})
    assert (found[1].chosen, found[1].waited) == (20, 1)


def test_without_numbers_the_choice_stays() -> None:
    config = rules(select_by="ensemble_agreement")
    before = among({10: 1.0})[0]
    after = after_evaluation(before, config, Candidate(20, {"ensemble_agreement": nan}), {}, 2)
    assert (after.chosen, after.candidates, after.waited) == (10, before.candidates, 1)


def test_it_is_kept_as_plain_data() -> None:
    one = among({10: 1.0}, {10: 0.7, 20: 0.8})[1]
    assert Selection.parsed(one.state()) == one
    assert Selection.parsed({}) == Selection()


@pytest.mark.parametrize(("waited", "text"), [(1, "1 evaluation"), (3, "3 evaluations")])
def test_why_a_run_ended(waited: int, text: str) -> None:
    assert early_stop_text("miou", waited) == f"no gain of miou in {text}"
