"""A trial under way, and what is known of one that has ended."""

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from adapt.checkpoint.spent import Spent
from adapt.spec.job_spec import JobSpec
from adapt.sweep.progress import Progress, Watched
from adapt.sweep.runner import RunningTrial
from adapt.sweep.study import REFUSED

PRUNED_AT, AS, WHY, SPENT, BEST_STEP = "pruned_at", "as", "why", "spent", "best_step"
"""Notes of a trial: the step at which it was ended, the earlier trial of the same point, the reason
of a failure, the time taken, the step of its best checkpoint."""


class Notes(dict[str, Any]):
    """A trial's notes, kept in the study as they are made."""

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__(trial.user_attrs)
        self._trial = trial

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._trial.set_user_attr(key, value)


@dataclass
class Live:
    """A trial under way in a slot."""

    number: int
    trial: optuna.Trial
    notes: Notes
    job: JobSpec
    slot: int
    running: RunningTrial
    watched: Watched
    progress: Progress
    told: set[int]


def spent_of(trial: FrozenTrial) -> Spent:
    """The time that a trial has taken, as noted last."""
    return Spent.read(trial.user_attrs.get(SPENT))


def outcome(trial: FrozenTrial) -> str:
    """A trial's result in a few words: `complete, 47.12%`, `pruned at step 60`."""
    notes = trial.user_attrs
    if REFUSED in notes:
        return "refused"
    if AS in notes:
        return f"as t{notes[AS]:04d}, {trial.value:.2%}"
    match trial.state:
        case TrialState.COMPLETE:
            return f"complete, {trial.value:.2%}"
        case TrialState.PRUNED:
            return f"pruned at step {notes.get(PRUNED_AT, 0)}"
        case TrialState.FAIL:
            return "failed"
    return "not finished"


def shown_values(drawn: dict[str, Any]) -> dict[str, str]:
    """A point's numbers, shortened for people."""
    return {
        name: f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in drawn.items()
    }
