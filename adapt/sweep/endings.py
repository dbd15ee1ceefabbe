"""The ends of a sweep's trials: complete, pruned, failed, refused, or to be resumed. Noted in the
study and said; where trials fail or are refused in a row, the sweep ends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

import optuna
from optuna.trial import FrozenTrial, TrialState

from adapt.errors import JobError
from adapt.sweep.live import PRUNED_AT, WHY, Live, Notes, outcome
from adapt.sweep.runner import Ending
from adapt.sweep.study import REFUSED
from adapt.sweep.trial_job import trial_name

REFUSALS_IN_A_ROW, FAILURES_IN_A_ROW, RESTARTS = 50, 3, 3


@dataclass
class Endings:
    """How the trials of one start of a sweep end.

    `name` is the sweep's; `say` shows a line; `on_end` gets each trial that has a result; `stop` is
    set once the sweep itself ends, which leaves interrupted trials as they are.
    """

    name: str
    study: optuna.Study
    say: Callable[[str], None]
    on_end: Callable[[FrozenTrial], None]
    stop: Event
    refusals: int = 0
    failures: int = 0
    restarts: dict[int, int] = field(default_factory=dict)

    def end(
        self, trial: optuna.Trial, notes: Notes, state: TrialState, score: float | None = None
    ) -> None:
        """Note the result in the study, and say it."""
        ended = self.study.tell(trial, score, state)
        reason = notes.get(REFUSED) or notes.get(WHY)
        named = trial_name(self.name, trial.number)
        self.say(f"{named}: {outcome(ended)}" + (f" [{reason}]" if reason else ""))
        self.on_end(ended)

    def refuse(self, trial: optuna.Trial, notes: Notes, error: JobError) -> None:
        """A point that is no valid job. Raises `JobError` after many in a row."""
        notes[REFUSED] = error.problem
        self.end(trial, notes, TrialState.FAIL)
        self.refusals += 1
        if self.refusals >= REFUSALS_IN_A_ROW:
            raise JobError(
                f"space: expected points that the spec takes, got {self.refusals} in a row that "
                f"it refuses: {error.problem}",
                "narrow the ranges, or make keys depend on one another with `when`",
            ) from error

    def resumes(self, one: Live, ending: Ending, is_paid_up: bool) -> bool:
        """Note how a trial's job ended; true where the trial resumes, for its machine ended it and
        not the limit of its spec (`is_paid_up`). Raises `JobError` after failures in a row."""
        if PRUNED_AT in one.notes:
            self.end(one.trial, one.notes, TrialState.PRUNED)
        elif ending.state == "interrupted" and not is_paid_up:
            return not self.stop.is_set() and self._restarts(one, ending)
        elif ending.state == "failed":
            self._fail(one, ending.why)
        elif one.progress.score is None:
            self._fail(one, f"no {one.job.evaluate.score} is a number")
        else:
            self.failures = 0
            self.end(one.trial, one.notes, TrialState.COMPLETE, one.progress.score)
        return False

    def _restarts(self, one: Live, ending: Ending) -> bool:
        times = self.restarts[one.number] = self.restarts.get(one.number, 0) + 1
        if times > RESTARTS:
            self._fail(one, f"interrupted {times} times: {ending.why or 'see its log'}")
        return times <= RESTARTS

    def _fail(self, one: Live, why: str) -> None:
        one.notes[WHY] = why
        self.end(one.trial, one.notes, TrialState.FAIL)
        self.failures += 1
        if self.failures >= FAILURES_IN_A_ROW:
            raise JobError(
                f"{self.name}: expected trials that train, got {self.failures} failures in a row: "
                f"{why}",
                f"see {one.notes.get('log', f'`segadapt logs` of {one.job.name}')}",
            )
