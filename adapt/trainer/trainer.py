"""The training loop: step, log, evaluate, save, stop.

What it remembers between steps is in the engine, in the streams' draw numbers and in `evaluated`;
all of it is in every checkpoint, so a job that is killed anywhere resumes as if nothing had
happened.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from threading import Event

from torch import Tensor

from adapt.batch import Batch
from adapt.engine.bad_steps import refuse_standstill
from adapt.engine.engine import Engine
from adapt.errors import Interrupted
from adapt.evaluation.evaluate import Evaluation
from adapt.evaluation.protocol import joined_metrics
from adapt.ranks import any_rank
from adapt.trainer.evaluator import Evaluator
from adapt.trainer.feeds import Feeds
from adapt.trainer.journal import Journal
from adapt.trainer.opening import Opened
from adapt.trainer.outcome import Outcome
from adapt.trainer.saves import Evaluated, Saves
from adapt.trainer.selection import Candidate, after_evaluation, early_stop_text
from storage.shards.fetch import RETRY_TIME_S

log = logging.getLogger(__name__)


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

    def __post_init__(self) -> None:
        self._evaluator = Evaluator(self.opened, self.engine, self.beat, self.stop.is_set)

    def run(self) -> Outcome:
        """Train to the end.

        Raises `Interrupted`, with everything saved, when `stop` is set.
        """
        self._repeat_unmarked_evaluation()
        self._say_if_enough()
        self._train()
        self._finish()
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
                refuse_standstill(self.engine.bad_steps, self.engine.step_count)
            if self._evaluation_due():
                self._evaluate()
            if self.engine.step_count >= self.until or self._ends_early():
                self.engine.settle()
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
                self._save()
            assert batches is not None, "a rank without batches requests the stop"
            losses = self._step(*batches)
            self.feeds.trained()
            self.beat()
            if self.engine.step_count % train.log_every_steps == 0:
                self._log(losses)

    def _step(self, source: Batch, target: Batch | None) -> dict[str, Tensor]:
        return self.engine.step(source, target)

    def _log(self, losses: Mapping[str, Tensor]) -> None:
        self.journal.log_losses(losses, self.saves.durable)

    def _save(self) -> None:
        self.saves.save(self.evaluated)

    def _save_candidate(self) -> None:
        self.saves.save_candidate(self.evaluated)

    def _finish(self) -> None:
        self.saves.finish(self.evaluated, RETRY_TIME_S)

    def _take_batches(self) -> tuple[Batch, Batch | None]:
        return self.feeds.next()

    def _next_batches(self) -> tuple[Batch, Batch | None] | None:
        """The next step's batches; None on a stop while they did not arrive."""
        try:
            batches = self._take_batches()
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
        self.engine.settle()
        self.engine.share_buffers()
        try:
            found = self._evaluator.evaluate()
            agreed = self._agreed(found)
        except Interrupted:
            self.saves.stop(self.evaluated, "stopped while evaluating")
        metrics = joined_metrics((name, one.score.metrics()) for name, one in found.items())
        self._note(found, metrics, agreed)
        if any_rank(self.saves.is_candidate(self.evaluated))[0]:
            self._save_candidate()
        self.journal.start_stretch()

    def _agreed(self, found: Mapping[str, Evaluation]) -> dict[int, float]:
        """`Evaluator.agreement`; empty where another score chooses, and where the logits of the
        network that counts are no numbers."""
        rules = self.opened.job.evaluate
        if not rules.by_agreement or not found[rules.weights].score.finite:
            return {}
        self.saves.wait(self.stop.is_set)
        return self._evaluator.agreement(self.evaluated.selection)

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

    def _repeat_unmarked_evaluation(self) -> None:
        """After a kill between the save of a new best and its mark: evaluate that step again; by
        agreement mark what the state has chosen."""
        if self.opened.job.evaluate.by_agreement:
            self.saves.mark_chosen(self.evaluated.selection)
            return
        fresh = bool(self.evaluated.metrics) and self.evaluated.step == self.engine.step_count
        if any_rank(fresh and self.saves.is_candidate(self.evaluated))[0]:
            self.evaluated = self.evaluated._replace(step=0)
