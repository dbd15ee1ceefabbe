"""The training loop: step, log, evaluate, save, stop.

What it remembers between steps is in the engine, in the streams' draw numbers and in `evaluated`;
all of it is in every checkpoint, so a job that is killed anywhere resumes as if nothing had
happened.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from threading import Event
from typing import NamedTuple

from adapt.batch import Batch
from adapt.checkpoint.saved import Best
from adapt.engine.engine import Engine
from adapt.errors import Interrupted
from adapt.evaluation.evaluate import Evaluation, evaluate
from adapt.evaluation.label_free import TEACHER_AGREEMENT, without_average
from adapt.evaluation.metrics import subset_classes
from adapt.evaluation.protocol import EMA, STUDENT, TEACHER, joined_metrics
from adapt.models.segmenter import Segmenter
from adapt.ranks import any_rank
from adapt.trainer.candidates import Candidates
from adapt.trainer.feeds import Feeds
from adapt.trainer.journal import Journal
from adapt.trainer.opening import Opened, decoding_threads
from adapt.trainer.saves import Evaluated, Saves
from adapt.trainer.selection import Candidate, after_evaluation, early_stop_text
from storage.shards.fetch import RETRY_TIME_S

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The end of a job: steps done, best checkpoint, the last validation's metrics in [0, 1], the
    score that chose the best, and why it ended early, "" where it did not."""

    step: int
    best: Best | None
    metrics: dict[str, float]
    chosen_by: str
    stopped_early: str = ""


@dataclass
class Trainer:
    """One job on one process.

    `stop` requests an early end; `beat` is called after every piece of progress; `evaluated` is the
    last evaluation. `until` is the step to end at, before the job's last where it has rounds.
    """

    opened: Opened
    engine: Engine
    feeds: Feeds
    journal: Journal
    saves: Saves
    evaluated: Evaluated
    stop: Event
    beat: Callable[[], None]
    until: int
    _of_teacher: Evaluation | None = None

    def run(self) -> Outcome:
        """Train to the end.

        Raises `Interrupted`, with everything saved, when `stop` is set.
        """
        self._candidates = Candidates(self.opened, self.engine.device)
        self._repeat_unmarked_evaluation()
        self._say_if_enough()
        self._train()
        self.saves.finish(self.evaluated, RETRY_TIME_S)
        bad_samples = self.feeds.bad_samples
        if bad_samples:
            log.warning("skipped a bad sample %d times; each is named above", bad_samples)
        best = self.opened.folder.best()
        score, found = self.opened.job.evaluate.score, dict(self.evaluated.metrics)
        waited = self.evaluated.selection.waited
        why = early_stop_text(score, waited) if self._ends_early() else ""
        return Outcome(self.engine.step_count, best, found, score, why)

    def _train(self) -> None:
        train = self.opened.job.train
        self.journal.start_stretch()
        while True:
            if self.engine.step_count >= train.steps:
                self.engine.refuse_standstill()
            if self._evaluation_due():
                self._evaluate()
            if self.engine.step_count >= self.until or self._ends_early():
                return
            batches = self._next_batches()
            stop, save, used_up = any_rank(
                batches is None or self.stop.is_set(),
                self.saves.due(),
                self.journal.budget.used_up(),
            )
            if used_up and not stop:
                self.saves.stop(self.evaluated, self.journal.budget.how())
            if stop:
                how = "stopped at" if batches else "stopped waiting for data after"
                self.saves.stop(self.evaluated, how)
            if save:
                self.saves.save(self.evaluated)
            assert batches is not None, "a rank without batches requests the stop"
            losses = self.engine.step(*batches)
            self.feeds.trained()
            self.beat()
            if self.engine.step_count % train.log_every_steps == 0:
                self.journal.log_losses(losses, self.saves.durable)

    def _next_batches(self) -> tuple[Batch, Batch | None] | None:
        """The next step's batches; None on a stop while they did not arrive."""
        try:
            batches = self.feeds.next()
        except Interrupted as error:
            log.info("%s", error)
            return None
        self.journal.count_step(*batches)
        return batches

    def _evaluation_due(self) -> bool:
        job, step = self.opened.job, self.engine.step_count
        if job.validation is None or step == self.evaluated.step:
            return False
        regular = step > 0 and step % job.evaluate.every_steps == 0
        return regular or step >= job.train.steps

    def _evaluate(self) -> None:
        self.engine.share_buffers()
        try:
            found = {name: self._found(name) for name in self._evaluated()}
            agreed = self._agreed(found)
        except Interrupted:
            self.saves.stop(self.evaluated, "stopped while evaluating")
        metrics = joined_metrics((name, one.score.metrics()) for name, one in found.items())
        self._note(found, metrics, agreed)
        if any_rank(self.saves.is_best(self.evaluated))[0]:
            self.saves.save_best(self.evaluated)
        self.journal.start_stretch()

    def _agreed(self, found: Mapping[str, Evaluation]) -> dict[int, float]:
        """By step the agreement of the network that counts and of the candidates with all of them
        together; empty where another score chooses, and where its logits are no numbers."""
        rules, step = self.opened.job.evaluate, self.engine.step_count
        if not rules.by_agreement or not found[rules.weights].score.finite:
            return {}
        self.saves.wait(self.stop.is_set)
        earlier = [one.step for one in self.evaluated.selection.candidates if one.step < step]
        with self.engine.used(rules.weights) as network:
            return self._candidates.agreement(network, step, earlier, self.beat, self.stop.is_set)

    def _note(
        self,
        found: Mapping[str, Evaluation],
        metrics: dict[str, float],
        agreed: Mapping[int, float],
    ) -> None:
        """Remember and log an evaluation, and whether it ends the run."""
        job, step = self.opened.job, self.engine.step_count
        if job.evaluate.by_agreement:
            metrics[job.evaluate.score_metric] = agreed.get(step, nan)
        before, keep = self.evaluated.selection, job.checkpoint.keep
        now = Candidate(step, dict(metrics))
        selection = after_evaluation(before, job.evaluate, now, agreed, keep)
        self.evaluated = Evaluated(step, metrics, selection)
        self.journal.log_evaluations(found, metrics, selection)
        self._say_if_enough()

    def _ends_early(self) -> bool:
        """`evaluate.early_stop` ends the run here, before its last step."""
        job = self.opened.job
        enough = self.evaluated.selection.enough(job.evaluate)
        return enough and self.engine.step_count < job.train.steps

    def _say_if_enough(self) -> None:
        """Before the last save, so that its history has it; and where a run that is done is
        started again."""
        if self._ends_early():
            self.journal.log_early_stop(self.evaluated.selection)

    def _evaluated(self) -> list[str]:
        """The networks to evaluate: those of the spec, and the teacher where there is one."""
        teacher = [name for name in self.engine.networks() if name == TEACHER]
        return [*self.opened.job.evaluate.networks, *teacher]

    def _found(self, name: str) -> Evaluation:
        """An evaluation; one for all of a teacher that never changes."""
        if name == TEACHER and self._of_teacher is not None:
            return self._of_teacher
        with self.engine.used(name) as network, self._beside(name) as average:
            found = self._evaluation(name, network, average)
        if name == TEACHER and self.engine.method.teacher_is_fixed:
            self._of_teacher = found
        return found

    @contextmanager
    def _beside(self, name: str) -> Iterator[Segmenter | None]:
        """The moving average that a network's classes are compared with, of the average the
        student; None where no score asks for it."""
        other = {STUDENT: EMA, EMA: STUDENT}.get(name)
        if other is None or TEACHER_AGREEMENT not in self.opened.job.evaluate.label_free_scores:
            yield None
            return
        with self.engine.used(other) as network:
            yield network

    def _evaluation(self, name: str, network: Segmenter, average: Segmenter | None) -> Evaluation:
        """Evaluate one of `Engine.networks`; the one that counts with pictures."""
        job, place, validation = self.opened.job, self.opened.place, self.opened.data.validation
        assert validation is not None, "no evaluation is due without a validation split"
        counts = name == job.evaluate.weights
        return evaluate(
            network,
            validation,
            self.engine.device,
            views=job.evaluate,
            subsets=subset_classes(job.evaluate.subsets, job.classes.names),
            label_free=without_average(job.evaluate.label_free_scores, average),
            average=average,
            threads=decoding_threads(job.stream, place),
            num_pictures=job.evaluate.pictures if counts else 0,
            num_worst=job.report.worst if counts and job.report.enabled else 0,
            rank=place.rank,
            num_ranks=place.num_ranks,
            on_image=self.beat,
            stopped=self.stop.is_set,
        )

    def _repeat_unmarked_evaluation(self) -> None:
        """After a kill between the save of a new best and its mark: evaluate that step again; by
        agreement mark what the state has chosen."""
        if self.opened.job.evaluate.by_agreement:
            self.saves.mark_chosen(self.evaluated.selection)
            return
        fresh = bool(self.evaluated.metrics) and self.evaluated.step == self.engine.step_count
        if any_rank(fresh and self.saves.is_best(self.evaluated))[0]:
            self.evaluated = self.evaluated._replace(step=0)
