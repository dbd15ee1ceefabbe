"""Which checkpoint of a run counts, and whether the run still gains: pure functions of its
evaluations, remembered in every checkpoint, so that a run that is killed chooses and ends the same.

A score of one checkpoint alone is compared with the best so far. `ensemble_agreement` is a score
among checkpoints: each evaluation scores anew all that are kept for it, and the choice may fall on
an earlier one.
"""

from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import Any, NamedTuple

from adapt.evaluation.protocol import EvaluateConfig, sign


class Candidate(NamedTuple):
    """A stored checkpoint that later ones are compared with, and its metrics in [0, 1]."""

    step: int
    figures: Mapping[str, float]


class Selection(NamedTuple):
    """The memory of the choice.

    `candidates`, oldest first, `chosen` among them, as its step, and its `score` then: by
    `ensemble_agreement` alone. `gained`: the score at the last gain, its sign turned so that
    greater is better. `waited`: evaluations since that gain. `step`: of the last evaluation that
    was counted.
    """

    candidates: tuple[Candidate, ...] = ()
    chosen: int | None = None
    score: float | None = None
    gained: float | None = None
    waited: int = 0
    step: int = 0

    def state(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        candidates = [[one.step, dict(one.figures)] for one in self.candidates]
        return {**self._asdict(), "candidates": candidates}

    @classmethod
    def parsed(cls, state: Mapping[str, Any]) -> "Selection":
        """From `state()`; an empty one is that of a new run."""
        candidates = tuple(Candidate(*one) for one in state.get("candidates", ()))
        return cls(**{**state, "candidates": candidates})

    def of(self, step: int | None) -> Candidate | None:
        """The candidate of a step."""
        return next((one for one in self.candidates if one.step == step), None)

    def enough(self, rules: EvaluateConfig) -> bool:
        """True where `early_stop` ends the run."""
        return rules.early_stop is not None and self.waited >= rules.early_stop.patience


def after_evaluation(
    before: Selection,
    rules: EvaluateConfig,
    now: Candidate,
    agreed: Mapping[int, float],
    keep: int,
) -> Selection:
    """The selection after an evaluation, whose checkpoint is `now`.

    `agreed`: by step the agreement of this and of the earlier candidates; empty for other scores,
    and where this one's logits are no numbers. `keep`: how many of the newest stay candidates. An
    evaluation that is repeated after a kill counts once.
    """
    if now.step == before.step:
        return before
    min_delta = 0.0 if rules.early_stop is None else rules.early_stop.min_delta
    after, gains = before, False
    if agreed:
        chosen = max(agreed, key=lambda step: (rules.rank(step, agreed[step]), step))
        there = [*(one for one in before.candidates if one.step in agreed), now]
        kept = tuple(one for one in there if one in there[-keep:] or one.step == chosen)
        after = Selection(kept, chosen, agreed[chosen])
        others = max((value for step, value in agreed.items() if step != now.step), default=-inf)
        gains = agreed[now.step] > others + min_delta
    elif not rules.by_agreement:
        goodness = sign(rules.score) * now.figures[rules.score_metric]
        least = -inf if before.gained is None else before.gained + min_delta
        gains = isfinite(goodness) and goodness > least
        after = before._replace(gained=goodness) if gains else before
    return after._replace(step=now.step, waited=0 if gains else before.waited + 1)


def spared(selection: Selection) -> Iterable[int]:
    """The steps whose checkpoints stay, beside the newest."""
    return [one.step for one in selection.candidates]


def early_stop_text(score: str, waited: int) -> str:
    """Why a run ended before its last step."""
    return f"no gain of {score} in {waited} evaluation{'s'[: waited > 1]}"
