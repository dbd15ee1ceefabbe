"""The training loop of a run that is profiled: the trainer's, each part of it within a span."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adapt.batch import Batch
from adapt.profiling.timeline import DATA, EVALUATION, LOGGING, SAVING
from adapt.profiling.trace import STEP
from adapt.trainer.profiler import Profiler
from adapt.trainer.trainer import Trainer


@dataclass
class ProfiledTrainer(Trainer):
    """One job on the leader's process, with a profile of some of its steps."""

    profiler: Profiler

    def _train(self) -> None:
        self.profiler.plan(self.engine.step_count, self.until)
        super()._train()

    def _take_batches(self) -> tuple[Batch, Batch | None]:
        with self.profiler.span(DATA):
            return super()._take_batches()

    def _step(self, source: Batch, target: Batch | None) -> dict[str, Tensor]:
        self.profiler.count(source, target)
        with self.profiler.span(STEP):
            return super()._step(source, target)

    def _log(self, losses: Mapping[str, Tensor]) -> None:
        with self.profiler.span(LOGGING):
            super()._log(losses)

    def _evaluate(self) -> None:
        with self.profiler.span(EVALUATION):
            super()._evaluate()

    def _save(self) -> None:
        with self.profiler.span(SAVING):
            super()._save()

    def _save_candidate(self) -> None:
        with self.profiler.span(SAVING):
            super()._save_candidate()

    def _finish(self) -> None:
        with self.profiler.span(SAVING):
            super()._finish()
