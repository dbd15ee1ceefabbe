"""The loop of a sweep: draws points, has them trained as ordinary jobs, reads their scores, ends
those that fall behind.

Everything that a later start needs stands in the study before it is acted upon: a sweep that is
killed resumes with the same trials, and each trial from its own checkpoint.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from adapt.errors import Interrupted, JobError, counted
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.sweep import study as studies
from adapt.sweep.endings import Endings
from adapt.sweep.live import (
    AS,
    BEST_STEP,
    PRUNED_AT,
    SPENT,
    Live,
    Notes,
    shown_values,
    spent_of,
)
from adapt.sweep.options import Limits, Search
from adapt.sweep.progress import Progress, Watched
from adapt.sweep.runner import Runner
from adapt.sweep.space import Space
from adapt.sweep.study import SECONDS
from adapt.sweep.trial_job import Base
from adapt.trainer.problems import ALL, refuse_problems
from storage.errors import StoreError

log = logging.getLogger(__name__)

CENT = 0.01
STOP_S = 600.0
"""Longest wait for trials that were asked to save; those of a platform end later by themselves."""
KEEP_S = 10.0
"""Of the sweep's hours so much is lost by a kill."""


@dataclass
class Sweep:
    """A sweep: what is searched, by which study, where trials train, and its limits.

    `parent_run` gives the MLflow run of the sweep; `say` shows a line; `stop` asks for an early
    end; `price_per_hour` is that of a node.
    """

    base: Base
    space: Space
    search: Search
    limits: Limits
    study: optuna.Study
    runner: Runner
    place: Place
    parent_run: Callable[[], str | None]
    say: Callable[[str], None]
    stop: Event
    price_per_hour: float | None = None
    checks: Sequence[str] = ALL
    on_end: Callable[[FrozenTrial], None] = lambda _trial: None
    urgent: Callable[[], bool] = lambda: True

    def run(self) -> str:
        """Search until a limit is reached; its name.

        Raises `Interrupted` once `stop` is set and the trials have saved; `JobError` where trials
        fail in a row, `StoreError`.
        """
        self._live: list[Live] = []
        self._endings = Endings(self.base.name, self.study, self.say, self.on_end, self.stop)
        self._began_s = self._kept_s = time.monotonic()
        self._before_s = float(self.study.user_attrs.get(SECONDS, 0.0))
        self._left = [one.number for one in self._trials() if one.state == TrialState.RUNNING]
        if self._left:
            self.say(f"continuing {counted(len(self._left), 'trial')} of an earlier start")
        try:
            return self._search()
        finally:
            self._stop_all()
            self._keep_time(0.0)

    def seconds(self) -> float:
        """The time of all starts of the sweep."""
        return self._before_s + time.monotonic() - self._began_s

    def cost(self) -> float:
        """The cost of all trials so far; 0 without a price."""
        live = {one.number: one.progress.spent for one in self._live}
        spent = [live.get(one.number) or spent_of(one) for one in self._trials()]
        return sum(one.cost(self.price_per_hour or 0.0) for one in spent)

    def _search(self) -> str:
        while True:
            if self.stop.is_set():
                self._stop_all()
                raise Interrupted(
                    "stopped with every trial saved: the same command continues the sweep"
                )
            limit = self._limit()
            if limit is not None:
                return limit
            self._fill()
            if not self._live:
                return f"{counted(len(studies.counted(self.study)), 'trial')} done"
            self.stop.wait(self.runner.poll_s)
            for one in list(self._live):
                self._watch(one)
            self._keep_time(KEEP_S)

    def _limit(self) -> str | None:
        hours, cost = self.limits.hours, self.limits.cost
        if hours is not None and self.seconds() >= 3600 * hours:
            return f"--max-hours {hours:g} is reached (raise it to continue)"
        if cost is not None and self.cost() >= cost - CENT / 2:
            return f"--max-cost {cost:g} is reached (raise it to continue)"
        return None

    def _keep_time(self, every_s: float) -> None:
        if time.monotonic() - self._kept_s >= every_s:
            self._kept_s = time.monotonic()
            self.study.set_user_attr(SECONDS, round(self.seconds(), 1))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _fill(self) -> None:
        """Start trials until every slot has one, or no more are wanted."""
        while len(self._live) < self.runner.slots and not self.stop.is_set():
            if self._left:
                number = self._left.pop(0)
                trial, drawn = studies.again(self.study, number, self.space, self.search)
            elif len(studies.counted(self.study)) < (self.limits.trials or 0):
                trial, drawn = studies.ask(self.study, self.space, self.search)
            else:
                return
            self._begin(trial, drawn.drawn, drawn.values)

    def _begin(self, trial: optuna.Trial, drawn: dict[str, Any], values: dict[str, Any]) -> None:
        """Start a trial, unless its result is known."""
        notes = Notes(trial)
        if PRUNED_AT in notes:
            self._endings.end(trial, notes, TrialState.PRUNED)
            return
        twin = self._twin(trial.number, drawn)
        if twin is not None:
            notes[AS] = twin.number
            self._endings.end(trial, notes, twin.state, twin.value)
            return
        try:
            job = self._job(trial.number, values)
        except JobError as error:
            self._endings.refuse(trial, notes, error)
            return
        self._endings.refusals = 0
        slot = min(set(range(self.runner.slots)) - {one.slot for one in self._live})
        told = set(self._trials()[trial.number].intermediate_values)
        shown = ", ".join(f"{name}={value}" for name, value in shown_values(drawn).items())
        self.say(f"{job.name}: {shown}")
        watched = Watched(self.runner.folder(job), job.evaluate)
        running = self.runner.start(job, slot, notes)
        live = Live(trial.number, trial, notes, job, slot, running, watched, Progress({}), told)
        self._live.append(live)

    def _job(self, number: int, values: dict[str, Any]) -> JobSpec:
        """The trial's job, which ends by itself where the sweep's money does."""
        job = self.base.trial(number, values, self.parent_run())
        if self.limits.cost is not None:
            spent = spent_of(self._trials()[number]).cost(self.price_per_hour or 0.0)
            left = max(self.limits.cost - self.cost() + spent, CENT)
            own = job.train.max_cost
            most = {"max_cost": left if own is None else min(own, left)}
            job = job.model_copy(update={"train": job.train.model_copy(update=most)})
        refuse_problems(job, self.place, self.checks)
        return job

    def _twin(self, number: int, drawn: dict[str, Any]) -> FrozenTrial | None:
        """An earlier trial of the same point that was not ended: its result is this one's."""
        return next(
            (
                one
                for one in self._trials()[:number]
                if one.params == drawn and one.state == TrialState.COMPLETE
            ),
            None,
        )

    def _watch(self, one: Live) -> None:
        """Take a trial's new scores; end it where it falls behind, or note its end."""
        ending = one.running.ended()
        self._read(one)
        if ending is None:
            return
        self._live.remove(one)
        self._note(one)
        if self._endings.resumes(one, ending, self._is_paid_up(one)):
            self._left.insert(0, one.number)

    def _read(self, one: Live) -> None:
        try:
            one.progress = one.watched.read()
        except StoreError as error:
            log.warning("%s: its scores are read later: %s", one.job.name, error)
            return
        for step, score in sorted(one.progress.scores.items()):
            if step in one.told:
                continue
            one.told.add(step)
            one.trial.report(score, step)
            self._note(one)
            self.say(f"{one.job.name}: step {step}, {one.job.evaluate.score} {score:.2%}")
            behind = step < one.job.train.steps and one.trial.should_prune()
            if behind and PRUNED_AT not in one.notes:
                one.notes[PRUNED_AT] = step
                self.say(f"{one.job.name}: falls behind, ended at step {step}")
                one.running.stop()

    def _note(self, one: Live) -> None:
        one.notes[SPENT] = list(one.progress.spent)
        if one.progress.best is not None:
            one.notes[BEST_STEP] = one.progress.best.step

    def _is_paid_up(self, one: Live) -> bool:
        """Return whether a trial ended by the limit of its own spec: its score then counts."""
        most = one.job.train.max_cost
        if most is None or self._limit() is not None:
            return False
        return one.progress.spent.cost(self.price_per_hour or 0.0) >= most - CENT / 2

    def _stop_all(self) -> None:
        """Have all trials save and end, and wait for that; none of them is finished by it."""
        if not self._live:
            return
        self.say(f"stopping {counted(len(self._live), 'trial')}: each saves and ends")
        for one in self._live:
            one.running.stop(self.urgent())
        end_s = time.monotonic() + STOP_S
        while self._live and time.monotonic() < end_s:
            for one in [one for one in self._live if one.running.ended() is not None]:
                self._live.remove(one)
                self._read(one)
                self._note(one)
            time.sleep(min(self.runner.poll_s, 0.2))
        self._live = []
