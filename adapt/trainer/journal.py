"""The journal of a running job: its live line, its metrics in MLflow, its pictures."""

import logging
from collections.abc import Callable, Mapping, Sequence
from math import nan

from torch import Tensor, tensor

from adapt.batch import Batch
from adapt.checkpoint.saved import Saved
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.engine.engine import Engine
from adapt.evaluation.evaluate import Evaluation
from adapt.evaluation.pictures import evaluation_sheet
from adapt.evaluation.protocol import AGREEMENT, WITH_LABELS, metric_name
from adapt.report.history import TRAIN, VALIDATION, History
from adapt.report.thumbnails import panels
from adapt.stream.observe import Observed, Observer
from adapt.tracking.logged_models import TrackedModel
from adapt.tracking.tracker import Tracker
from adapt.trainer.budget import Budget
from adapt.trainer.feeds import Feeds
from adapt.trainer.lineage import scored_dataset
from adapt.trainer.opening import Opened
from adapt.trainer.progress import BAD_SAMPLES, SUMS, JobProgress, Stretch
from adapt.trainer.selection import Selection, early_stop_text, spared
from adapt.trainer.utilisation import Rates, Utilisation

log = logging.getLogger(__name__)


class Journal:
    """Logs a job's losses, speed and evaluations.

    `tracker` and `history` are None on every rank but the leader's; `on_progress` gets the live
    line's content. `budget` is what the job has cost.
    """

    def __init__(
        self,
        opened: Opened,
        engine: Engine,
        feeds: Feeds,
        tracker: Tracker | None,
        history: History | None,
        on_progress: Callable[[JobProgress], None],
    ) -> None:
        self.tracker, self.history = tracker, history
        self._job, self._num_ranks = opened.job, opened.place.num_ranks
        self._leader = opened.place.leader
        self._engine, self._feeds, self._on_progress = engine, feeds, on_progress
        self._stores = opened.job.resolved()["stores"]
        self._scored = scored_dataset(opened)
        self.budget = Budget(opened.job, history)
        self._scores: Mapping[str, float] = {}
        self._observer = Observer(feeds.streams, opened.cache)
        self._utilisation = Utilisation(opened.job, engine.device) if opened.place.leader else None
        self.start_stretch()

    def start_stretch(self) -> None:
        """Measure speed from here on: evaluations do not count."""
        self._stretch = Stretch(self._engine.step_count, self._feeds.wait_s)
        if self._utilisation is not None:
            self._utilisation.restart()

    def count_step(self, source: Batch, target: Batch | None) -> None:
        """Note how long a step waited for its batches, which were just taken, and what it costs."""
        self._observer.step()
        if self._utilisation is not None:
            self._utilisation.note(source, target)

    def log_losses(self, losses: Mapping[str, Tensor], durable: Moment | None) -> None:
        """Log losses and speed since the last call; all ranks take part."""
        step, steps = self._engine.step_count, self._job.train.steps
        observed = self._observer.take()
        means, streams = self._over_ranks(losses, observed)
        speed = self._stretch.measure(step, self._feeds.samples, self._feeds.wait_s)
        rates = self._rates(speed.spent_s)
        bill = self.budget.bill()
        self._on_progress(
            JobProgress(
                step,
                steps,
                means,
                speed.samples_per_s,
                speed.wait_share,
                (steps - step) * speed.step_s,
                observed,
                durable,
                rates.mfu,
                bill,
                self._scores,
            )
        )
        if self.tracker is not None:
            metrics = {f"train/loss.{_dotted(name)}": value for name, value in means.items()}
            for name, optimizer in self._engine.optimizers.items():
                metrics[f"train/lr.{_dotted(name)}"] = optimizer.param_groups[0]["lr"]
            metrics["speed/samples_per_s"] = speed.samples_per_s
            metrics["speed/data_wait_share"] = speed.wait_share
            metrics |= rates.metrics() | bill.metrics()
            if durable is not None:
                metrics["speed/checkpoint_age_s"] = durable.age_s
            self.tracker.log_metrics(metrics | streams, step)
            if self.history is not None:
                self.history.log(TRAIN, step, metrics)

    def _rates(self, spent_s: float) -> Rates:
        """Those of the steps that took `spent_s`; the next stretch begins once they are counted."""
        if self._utilisation is None:
            return Rates()
        has_new, rates = self._utilisation.has_new, self._utilisation.take(spent_s)
        if has_new:
            self.start_stretch()
        return rates

    def _over_ranks(
        self, losses: Mapping[str, Tensor], observed: Observed
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Losses averaged over ranks; the streams' metrics too, but for sums."""
        streams = {f"stream/{name}": value for name, value in observed._asdict().items()}
        streams[BAD_SAMPLES] = self._feeds.bad_samples
        for name in SUMS:
            streams[name] *= self._num_ranks
        counted = {name: tensor(float(value)) for name, value in streams.items()}
        means = self._engine.mean_over_ranks({**losses, **counted})
        return means, {name: means.pop(name) for name in streams}

    def log_evaluations(
        self,
        found: Mapping[str, Evaluation],
        metrics: Mapping[str, float],
        selection: Selection,
    ) -> None:
        """Log the metrics of all evaluated networks; of each its table and its pictures.
        selection: the choice after this evaluation."""
        step, self._scores = self._engine.step_count, metrics
        if self._leader:
            log.info("step %d: %s", step, ", ".join(f"{k} {v:.2%}" for k, v in metrics.items()))
        if self.tracker is None:
            return
        tracked = {**metrics, **self._of_classes(found)}
        self.tracker.log_metrics({f"validation/{k}": value for k, value in tracked.items()}, step)
        for network, evaluation in found.items():
            file = metric_name(network, f"step-{step:08d}")
            table = evaluation.score.record(self._job.classes.names)
            self.tracker.log_table(table, f"evaluations/{file}.json")
            if evaluation.pictures:
                sheet = evaluation_sheet(evaluation.pictures, self._job.classes)
                self.tracker.log_image(sheet, f"pictures/{file}.png")
        if self.history is not None:
            self.history.log(VALIDATION, step, tracked)
            self._keep(self.history, found[self._job.evaluate.weights], metrics)
            if selection.chosen is not None and selection.score is not None:
                record = {AGREEMENT: selection.score}
                self.history.choose(selection.chosen, spared(selection), record)

    def _keep(self, history: History, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """Keep the evaluation of the network that counts for the report."""
        config, classes, step = self._job.evaluate, self._job.classes, self._engine.step_count
        score = metrics[config.score_metric]
        entry = {
            "step": step,
            "record": evaluation.score.record(classes.names),
            "pictures": panels(evaluation.pictures, classes) if self._job.report.enabled else [],
            "worst": panels(evaluation.worst, classes),
        }
        ranked = score == score and not config.by_agreement
        history.log_evaluation(entry, config.rank(step, score) if ranked else nan)

    def log_early_stop(self, selection: Selection) -> None:
        """Say that the run ends here, and why, in the log, in MLflow and in the report."""
        step, steps = self._engine.step_count, self._job.train.steps
        text = early_stop_text(self._job.evaluate.score, selection.waited)
        log.info("stopped early at step %d of %d: %s", step, steps, text)
        if self.tracker is not None:
            self.tracker.log_tags({"segadapt.stopped_early": f"step {step}: {text}"})
        if self.history is not None:
            self.history.stop_early(text)

    def _of_classes(self, found: Mapping[str, Evaluation]) -> dict[str, float]:
        """The IoU of every class that occurs, by each network that labels were read for."""
        return {
            metric_name(network, f"iou/{name}"): iou
            for network, one in found.items()
            if one.score.labelled
            for name, iou in zip(self._job.classes.names, one.score.iou.tolist(), strict=True)
            if iou == iou
        }

    def register_stored(self, saved: Saved, snapshot: Snapshot) -> None:
        """Register the checkpoint that counts once a snapshot is stored, its own or an earlier one,
        with the score by which it was chosen now."""
        own = snapshot.best_step is None
        figures = snapshot.state["figures"] if own else snapshot.best_figures
        self.register(saved, figures, snapshot.score)

    def register(self, saved: Saved, figures: Mapping[str, float], score: float | None) -> None:
        """Register a stored checkpoint as the one that counts, with the scores of its weights."""
        if self.tracker is None:
            return
        config = self._job.evaluate
        metrics = {**figures, **({} if score is None else {config.score_metric: score})}
        names = {one: metric_name(config.weights, one) for one in (config.score, WITH_LABELS)}
        scores = {one: metrics[name] for one, name in names.items() if name in metrics}
        rule = {"protocol": config.protocol, "weights": config.weights}
        self.tracker.register_best(saved.weights_uri, saved.sha256, scores, rule)

    def log_model(self, saved: Saved, snapshot: Snapshot, kept: Sequence[str]) -> None:
        """Log a stored checkpoint as a model. kept: all that are in the store now."""
        if self.tracker is None:
            return
        model = TrackedModel(
            saved.name,
            saved.weights_uri,
            saved.sha256,
            snapshot.step,
            snapshot.description,
            self._stores,
            self._scored,
        )
        self.tracker.log_model(model, kept)


def _dotted(name: str) -> str:
    """A name without slashes: MLflow makes a panel of what stands before the last one."""
    return name.replace("/", ".")
