"""The saves of a running job: their time, their content, and the last one before the end.

All ranks call the same methods in the same order, since a save shares buffers among them; the
leader alone stores, in the background.
"""

import time
from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from adapt.checkpoint.lease import LeaseLost
from adapt.checkpoint.saver import Saver
from adapt.checkpoint.shards import apart
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.engine.engine import Engine
from adapt.errors import Interrupted
from adapt.models.weights import NETWORK_WEIGHTS
from adapt.ranks import any_rank, barrier
from adapt.trainer.base_left_out import kept_weights, without_base_of
from adapt.trainer.feeds import Feeds
from adapt.trainer.journal import Journal
from adapt.trainer.lineage import header_of, lineage_of
from adapt.trainer.opening import Opened
from adapt.trainer.selection import Selection, spared
from adapt.trainer.shard_saves import ShardSaves, Stored
from storage.errors import StoreError
from storage.shards.fetch import RETRY_TIME_S

SAVING_SHARE = 0.6
"""Of the time between SIGTERM and SIGKILL; the rest is for MLflow and for ending."""


class Evaluated(NamedTuple):
    """The last evaluation: its step (0: none, or to be repeated) and metrics in [0, 1], and the
    choice among all until then."""

    step: int = 0
    metrics: Mapping[str, float] = MappingProxyType({})
    selection: Selection = Selection()


class Saves:
    """Saves a job's checkpoints.

    `last` is the moment of the last copy, at first of the state that the job started from. `beat`
    is called while an end waits for the store.
    """

    def __init__(
        self,
        opened: Opened,
        engine: Engine,
        feeds: Feeds,
        journal: Journal,
        evaluated: Evaluated,
        beat: Callable[[], None],
    ) -> None:
        self._opened, self._engine, self._feeds = opened, engine, feeds
        self._tracker, self._history, self._beat = journal.tracker, journal.history, beat
        self._register = journal.register
        self._spec_text = opened.job.to_yaml()
        self._shards = ShardSaves(opened.folder, beat)
        self._last = Moment(engine.step_count, evaluated.step, time.monotonic())
        self._best_rank: float | None = None
        self._saver: Saver | None = None
        if opened.place.leader:
            best = opened.folder.verified_best()
            self._best_rank = None if best is None else self._rank(best.step, best.score)
            keep = opened.job.checkpoint.keep
            self._saver = Saver(opened.folder, keep, journal.register_stored, journal.log_model)
            self._saver.durable = self._last if engine.step_count else None

    @property
    def durable(self) -> Moment | None:
        """The last checkpoint that this process has stored."""
        return None if self._saver is None else self._saver.durable

    def due(self) -> bool:
        """True where the leader's next regular save is due and can begin immediately."""
        if self._saver is None or self._saver.busy:
            return False
        config, step = self._opened.job.checkpoint, self._engine.step_count
        every = config.every_steps
        if every is not None and step // every > self._last.step // every:
            return True
        return self._last.age_s / 60 >= config.every_minutes

    def is_candidate(self, evaluated: Evaluated) -> bool:
        """True on the leader where the checkpoint of an evaluation may be the one that counts: by
        agreement each, among all that are kept, else one that is better than all before it by the
        job's protocol. One whose score is no number never is."""
        score = self._score(evaluated)
        if self._saver is None or not isfinite(score):
            return False
        if self._opened.job.evaluate.by_agreement:
            return True
        return self._best_rank is None or self._rank(evaluated.step, score) > self._best_rank

    def save_candidate(self, evaluated: Evaluated) -> None:
        """Save, and have the checkpoint marked as the best once it is stored, or by agreement the
        one that is chosen now."""
        score, chosen = self._score(evaluated), evaluated.selection.score
        self._best_rank = self._rank(evaluated.step, score)
        self.save(evaluated, score if chosen is None else chosen, patience_s=RETRY_TIME_S)

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until what was submitted is stored, as long as an unreachable store is retried.
        Raises `Interrupted` on all ranks where `stopped` returns true on any."""
        if self._saver is not None:
            self._saver.finish(None, RETRY_TIME_S, self._beat, stopped)
        if any_rank(stopped())[0]:
            raise Interrupted("stopped while a checkpoint was stored")

    def mark_chosen(self, selection: Selection) -> None:
        """After a kill between a save and its mark, or a damaged checkpoint: mark the one that the
        resumed state has chosen."""
        chosen, folder = selection.of(selection.chosen), self._opened.folder
        if self._saver is None or chosen is None or selection.score is None:
            return
        best = folder.best()
        if best is not None and (best.step, best.score) == (chosen.step, selection.score):
            return
        saved = folder.of_step(chosen.step)
        if saved is not None:
            folder.mark_best(saved, selection.score)
            self._register(saved, chosen.figures, selection.score)
            folder.verified_best()

    def save(
        self, evaluated: Evaluated, score: float | None = None, patience_s: float = 0.0
    ) -> None:
        """Have the leader store a checkpoint in the background; `score` marks it as the best.

        Shards of ranks are stored first, for `patience_s` where that fails.
        """
        snapshot = self._snapshot(evaluated, score, patience_s)
        if self._saver is not None and snapshot is not None:
            self._saver.submit(snapshot)

    def finish(self, evaluated: Evaluated, timeout_s: float) -> None:
        """Save, and wait until everything is stored. Raises `StoreError` on a timeout."""
        end_s = time.monotonic() + timeout_s
        saver = self._saver
        try:
            if saver is not None:
                saver.finish(None, timeout_s, self._beat)
            if any_rank(saver is not None and not self._is_stored(saver, evaluated))[0]:
                snapshot = self._snapshot(evaluated, patience_s=max(end_s - time.monotonic(), 1))
                if saver is not None:
                    saver.finish(snapshot, end_s - time.monotonic(), self._beat)
        finally:
            barrier()

    def stop(self, evaluated: Evaluated, how: str) -> NoReturn:
        """Save in the time that a stop leaves, and end. Raises `Interrupted`, or `LeaseLost`."""
        step = self._engine.step_count
        try:
            self.finish(evaluated, self._opened.place.stop_s * SAVING_SHARE)
        except LeaseLost:
            raise
        except StoreError as error:
            last = self.durable
            stored = "no checkpoint" if last is None else f"the checkpoint of step {last.step}"
            raise Interrupted(
                f"{how} step {step}, which could not be saved; {stored} is stored: {error}"
            ) from error
        lease = self._opened.folder.lease
        if lease is not None:
            lease.raise_if_lost()
        raise Interrupted(f"{how} step {step}, everything is saved")

    def close(self) -> None:
        """End the saving thread once nothing is in flight."""
        if self._saver is not None:
            self._saver.close()

    def _score(self, evaluated: Evaluated) -> float:
        return evaluated.metrics[self._opened.job.evaluate.score_metric]

    def _rank(self, step: int, score: float) -> float:
        return self._opened.job.evaluate.rank(step, score)

    def _is_stored(self, saver: Saver, evaluated: Evaluated) -> bool:
        """True where the present state is in the store."""
        durable = saver.durable
        if durable is None or not saver.settled:
            return False
        return durable[:2] == (self._engine.step_count, evaluated.step)

    def _snapshot(
        self, evaluated: Evaluated, score: float | None = None, patience_s: float = 0.0
    ) -> Snapshot | None:
        """The state as it is now, in memory; None but for the leader, and where shards could not be
        stored. Raises `StoreError` for these after `patience_s`."""
        self._engine.share_buffers()
        engine, shards = apart(without_base_of(self._engine))
        step, stored = self._engine.step_count, Stored()
        if shards:
            found = self._shards.store(step, shards, patience_s)
            if found is None:
                return None
            stored = found
        job, networks = self._opened.job, self._engine.networks()
        base, whole = networks["student"].base, self._engine.parallel.weights
        weights = {
            name: kept_weights(networks[name], base, whole(networks[name]))
            for name in job.evaluate.networks
        }
        if self._saver is None:
            return None
        self._last = Moment(self._engine.step_count, evaluated.step, time.monotonic())
        state = {
            "engine": engine,
            **self._feeds.state,
            "evaluated_step": evaluated.step,
            "figures": dict(evaluated.metrics),
            "selection": evaluated.selection.state(),
            "run_id": "" if self._tracker is None else self._tracker.run_id or "",
            "undelivered": [] if self._tracker is None else self._tracker.undelivered(),
        }
        chosen = evaluated.selection.of(evaluated.selection.chosen)
        older = chosen if chosen is not None and chosen.step != self._engine.step_count else None
        pixels = networks[job.evaluate.weights].pixels
        lineage = lineage_of(self._opened, self._engine.step_count)
        return Snapshot(
            self._last,
            state,
            weights.pop(job.evaluate.weights),
            self._spec_text,
            header_of(job, pixels, lineage).entries() | ({} if base is None else base.entries()),
            score,
            {NETWORK_WEIGHTS[name]: values for name, values in weights.items()},
            "" if self._history is None else self._history.text(),
            stored.name,
            stored.sha256,
            None if older is None else older.step,
            {} if older is None else older.figures,
            tuple(spared(evaluated.selection)),
        ).copied()
