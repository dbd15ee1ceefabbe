"""The training loop: resume, step, log, evaluate, save, stop.

What it remembers between steps is in the engine, in the streams' draw numbers and in
`evaluated_step`; all of it is in every checkpoint, so a job that is killed anywhere goes on as if
nothing had happened.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any, NamedTuple, NoReturn

import torch

from adapt.batch import Batch
from adapt.checkpoint.run_folder import Best, RunFolder, Saved
from adapt.checkpoint.saver import Durable, Saver, Snapshot, snapshot_of
from adapt.engine.engine import Engine
from adapt.errors import Interrupted
from adapt.evaluation.evaluate import Evaluation, evaluate
from adapt.evaluation.metrics import subset_classes
from adapt.evaluation.pictures import evaluation_sheet
from adapt.models.weights import describe
from adapt.places import Place
from adapt.ranks import any_rank, barrier
from adapt.spec.job_spec import JobSpec
from adapt.stream.feed import Feed
from adapt.stream.observe import Observer
from adapt.tracking.tracker import Tracker
from adapt.trainer.opening import JobData, decoding_threads
from adapt.trainer.progress import BAD_SAMPLES, SUMS, Progress, Stretch
from storage.errors import StoreError
from storage.shards.fetch import PATIENCE_S

log = logging.getLogger(__name__)

SAVING_SHARE = 0.6
"""Of the time between SIGTERM and SIGKILL; the rest is for MLflow and for ending."""


class Outcome(NamedTuple):
    """How a job ended: steps done, best checkpoint, and the last validation's figures in [0, 1]."""

    step: int
    best: Best | None
    figures: dict[str, float]


@dataclass
class Trainer:
    """One job on one process.

    `tracker` is None on every rank but the leader's; `stop` asks for an early end; `beat` is called
    whenever something was achieved.
    """

    job: JobSpec
    place: Place
    engine: Engine
    data: JobData
    source: Feed
    target: Feed | None
    folder: RunFolder
    tracker: Tracker | None
    stop: Event
    on_progress: Callable[[Progress], None] = lambda _progress: None
    beat: Callable[[], None] = lambda: None
    evaluated_step: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    _saved_s: float = field(default_factory=time.monotonic)
    _saved_at: tuple[int, int] | None = None
    _since: Stretch = field(default_factory=Stretch)
    _best: Best | None = None
    _observer: Observer = field(init=False)
    _draws: dict[str, Any] = field(init=False)
    _saver: Saver | None = field(init=False)

    def __post_init__(self) -> None:
        streams = [feed.stream for feed in self._feeds()]
        self._observer = Observer(streams, self.data.source.cache)
        self._draws = self._feed_states()
        keep, leader = self.job.checkpoint.keep, self.place.leader
        self._saver = Saver(self.folder, keep, self._register) if leader else None

    def run(self) -> Outcome:
        """Train to the end.

        Raises `Interrupted`, with everything saved, when `stop` is set.
        """
        try:
            self._train()
            self._save_to_the_end(PATIENCE_S)
        finally:
            if self._saver is not None:
                self._saver.close()
        bad_samples = sum(feed.stream.bad_samples for feed in self._feeds())
        if bad_samples:
            log.warning("skipped a bad sample %d times; each is named above", bad_samples)
        return Outcome(self.engine.step_count, self.folder.best(), self.figures)

    def _train(self) -> None:
        self._since = self._new_stretch()
        if self._saver is not None and self.engine.step_count:
            self._saver.durable = Durable(self.engine.step_count, self._saved_s)
            self._saved_at = (self.engine.step_count, self.evaluated_step)
        self._best = self.folder.verified_best() if self.place.leader else None
        self._repeat_unmarked_evaluation()
        while True:
            if self._evaluation_due():
                self._evaluate()
            if self.engine.step_count >= self.job.train.steps:
                return
            batches = self._next_batches()
            stop, save = any_rank(batches is None or self.stop.is_set(), self._save_due())
            if stop:
                self._stop("stopped at" if batches else "stopped waiting for data after")
            if save:
                self._save()
            assert batches is not None, "a rank without batches asks for the stop"
            losses = self.engine.step(*batches)
            self._draws = self._feed_states()
            self.beat()
            if self.engine.step_count % self.job.train.log_every_steps == 0:
                self._log(losses)

    def _feeds(self) -> list[Feed]:
        return [feed for feed in (self.source, self.target) if feed is not None]

    def _next_batches(self) -> tuple[Batch, Batch | None] | None:
        """The next step's batches; None where a stop was asked for while they did not come."""
        try:
            source = next(self.source)
            target = None if self.target is None else next(self.target)
        except Interrupted as error:
            log.info("%s", error)
            return None
        self._observer.step()
        return source, target

    def _feed_states(self) -> dict[str, Any]:
        return {
            "source": self.source.state(),
            "target": None if self.target is None else self.target.state(),
        }

    def _log(self, losses: dict[str, torch.Tensor]) -> None:
        step, streams = self.engine.step_count, [feed.stream for feed in self._feeds()]
        observed = self._observer.take()
        seen = {f"stream/{name}": value for name, value in observed._asdict().items()}
        seen[BAD_SAMPLES] = sum(stream.bad_samples for stream in streams)
        for name in SUMS:
            seen[name] *= self.place.num_ranks
        counted = {name: torch.tensor(float(value)) for name, value in seen.items()}
        values = self.engine.mean_over_ranks({**losses, **counted})
        seen = {name: values.pop(name) for name in seen}
        samples = sum(stream.batch_size for stream in streams)
        stretch = self._since.measure(step, samples, sum(stream.wait_s for stream in streams))
        remaining_s = (self.job.train.steps - step) * stretch.step_s
        self.on_progress(
            Progress(
                step,
                self.job.train.steps,
                values,
                stretch.samples_per_s,
                stretch.wait_share,
                remaining_s,
                observed,
                self._durable,
            )
        )
        if self.tracker is not None:
            metrics = {f"loss/{name}": value for name, value in values.items()}
            metrics |= {
                f"lr/{name}": o.param_groups[0]["lr"] for name, o in self.engine.optimizers.items()
            }
            metrics["speed/samples_per_s"] = stretch.samples_per_s
            metrics["speed/data_wait_share"] = stretch.wait_share
            if self._durable is not None:
                metrics["checkpoint/age_s"] = self._durable.age_s
            self.tracker.log_metrics(metrics | seen, step)

    def _evaluation_due(self) -> bool:
        step = self.engine.step_count
        at_end = step >= self.job.train.steps
        regular = step > 0 and step % self.job.evaluate.every_steps == 0
        return (
            self.data.validation is not None and (regular or at_end) and step != self.evaluated_step
        )

    def _evaluate(self) -> None:
        self.engine.share_buffers()
        try:
            evaluation = self._evaluation()
        except Interrupted:
            self._stop("stopped while evaluating")
        self.evaluated_step = self.engine.step_count
        self.figures = evaluation.score.figures()
        self._track(evaluation)
        if any_rank(self._is_best())[0]:
            score = self.figures[self.job.evaluate.select_by]
            self._best = Best(f"step-{self.engine.step_count:08d}", score, "")
            self._save(score)
        self._since = self._new_stretch()

    def _evaluation(self) -> Evaluation:
        assert self.data.validation is not None
        return evaluate(
            self.engine.method.segmenter,
            self.data.validation,
            self.engine.device,
            views=self.job.evaluate,
            subsets=subset_classes(self.job.evaluate.subsets, self.job.classes.names),
            threads=decoding_threads(self.job.stream, self.place),
            num_pictures=self.job.evaluate.pictures,
            rank=self.place.rank,
            num_ranks=self.place.num_ranks,
            on_image=self.beat,
            stopped=self.stop.is_set,
        )

    def _new_stretch(self) -> Stretch:
        return Stretch(self.engine.step_count, sum(feed.stream.wait_s for feed in self._feeds()))

    def _is_best(self) -> bool:
        """Whether the last evaluation beats all before it; the leader answers."""
        score = self.figures[self.job.evaluate.select_by]
        return self.place.leader and (self._best is None or score > self._best.score)

    def _repeat_unmarked_evaluation(self) -> None:
        """After a kill between the save of a new best and its mark: evaluate that step again."""
        fresh = bool(self.figures) and self.evaluated_step == self.engine.step_count
        if any_rank(fresh and self._is_best())[0]:
            self.evaluated_step = 0

    def _track(self, evaluation: Evaluation) -> None:
        step, space = self.engine.step_count, self.job.classes
        log.info("step %d: %s", step, ", ".join(f"{k} {v:.2%}" for k, v in self.figures.items()))
        if self.tracker is None:
            return
        per_class = dict(zip(space.names, evaluation.score.iou.tolist(), strict=True))
        metrics = {f"validation/{name}": value for name, value in self.figures.items()}
        metrics |= {f"validation/iou/{name}": v for name, v in per_class.items() if v == v}
        self.tracker.log_metrics(metrics, step)
        self.tracker.log_table(
            evaluation.score.record(space.names), f"evaluations/step-{step:08d}.json"
        )
        if evaluation.pictures:
            sheet = evaluation_sheet(evaluation.pictures, space)
            self.tracker.log_image(sheet, f"pictures/step-{step:08d}.png")

    def _register(self, saved: Saved, score: float) -> None:
        if self.tracker is not None:
            self.tracker.register_best(
                saved.weights_uri, saved.sha256, {self.job.evaluate.select_by: score}
            )

    def _save_due(self) -> bool:
        """Whether the leader's next regular save is due and can begin at once."""
        step, config = self.engine.step_count, self.job.checkpoint
        if self._saver is None or self._saver.busy:
            return False
        last_step, _ = self._saved_at or (0, 0)
        by_step = config.every_steps is not None and (
            step // config.every_steps > last_step // config.every_steps
        )
        return by_step or (time.monotonic() - self._saved_s) / 60 >= config.every_minutes

    def _save(self, score: float | None = None) -> None:
        """Have the leader store a checkpoint in the background; the others share what it needs.

        `score` marks it as the best.
        """
        snapshot = self._snapshot(score)
        if self._saver is not None:
            assert snapshot is not None
            self._saver.submit(snapshot)

    def _save_to_the_end(self, timeout_s: float) -> None:
        """Save, and wait until everything is stored. Raises `StoreError` where that takes too
        long."""
        end_s = time.monotonic() + timeout_s
        try:
            if self._saver is not None:
                self._saver.finish(None, timeout_s, self.beat)
            if any_rank(self._saver is not None and not self._is_stored())[0]:
                snapshot = self._snapshot()
                if self._saver is not None:
                    self._saver.finish(snapshot, end_s - time.monotonic(), self.beat)
        finally:
            barrier()

    def _is_stored(self) -> bool:
        """Whether the state as it is now is in the store."""
        same = self._saved_at == (self.engine.step_count, self.evaluated_step)
        settled = self._saver is not None and self._saver.settled
        durable = self._durable
        return same and settled and durable is not None and durable.step == self.engine.step_count

    def _stop(self, how: str) -> NoReturn:
        """Save within the platform's grace, and end."""
        step = self.engine.step_count
        try:
            self._save_to_the_end(self.place.grace_s * SAVING_SHARE)
        except StoreError as error:
            durable = self._durable
            saved = "nothing is" if durable is None else f"step {durable.step} is"
            raise Interrupted(
                f"{how} step {step}, which could not be saved ({saved}): {error}"
            ) from error
        raise Interrupted(f"{how} step {step}, everything is saved")

    @property
    def _durable(self) -> Durable | None:
        return None if self._saver is None else self._saver.durable

    def _snapshot(self, score: float | None = None) -> Snapshot | None:
        """The state as it is now, in memory; None but for the leader."""
        self.engine.share_buffers()
        self._saved_s = time.monotonic()
        self._saved_at = (self.engine.step_count, self.evaluated_step)
        if not self.place.leader:
            return None
        return snapshot_of(
            self.engine.step_count,
            {
                "engine": self.engine.state_dict(),
                **self._draws,
                "evaluated_step": self.evaluated_step,
                "figures": self.figures,
                "run_id": "" if self.tracker is None else self.tracker.run_id or "",
                "undelivered": [] if self.tracker is None else self.tracker.undelivered(),
            },
            self.engine.method.segmenter.state_dict(),
            self.job.to_yaml(),
            describe(self.job.model, self.job.classes.num_classes),
            score,
        )
