"""Saves checkpoints in the background: training waits only for a copy in memory.

At most one upload is in flight. A regular save that falls due meanwhile follows as soon as it ends.
A new best waits in memory for its turn and is retried until it is stored, since its evaluation is
not repeated. A failed upload is a warning: training continues, and the next save tries again.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Condition, Thread

from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.saved import Saved
from adapt.checkpoint.snapshot import Moment, Snapshot
from storage.errors import StoreError
from storage.retry import Retry
from storage.transient import TRANSIENT

log = logging.getLogger(__name__)

RETRY = Retry(first_wait_s=2.0, longest_wait_s=10.0)
"""The waits between uploads of a best checkpoint, and of the job's last, that failed."""

_BEAT_S = 1.0


class Saver:
    """Stores snapshots in `folder`, one after another, and keeps the `keep` newest and the best.

    `on_best` is called, in the saving thread, once a best checkpoint is stored and marked, then
    `on_stored` for every one, with the names of those that are kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        keep: int,
        on_best: Callable[[Saved, Snapshot], None],
        on_stored: Callable[[Saved, Snapshot, Sequence[str]], None],
    ) -> None:
        self.durable: Moment | None = None
        self._folder, self._keep, self._on_best = folder, keep, on_best
        self._on_stored = on_stored
        self._changed = Condition()
        self._flying: Snapshot | None = None
        self._waiting: Snapshot | None = None
        self._error: StoreError | None = None
        self._failures = 0
        self._closed = False
        self._thread = Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """True while a snapshot is being stored or waits for it."""
        return self._flying is not None or self._waiting is not None

    @property
    def settled(self) -> bool:
        """True where all that was submitted is stored, marks included."""
        return not self.busy and self._error is None

    def submit(self, snapshot: Snapshot) -> None:
        """Store a snapshot soon; it takes the place of one that still waits."""
        with self._changed:
            assert self._thread.is_alive(), "the saving thread has ended; its traceback is above"
            self._waiting = snapshot
            self._changed.notify_all()

    def finish(
        self,
        snapshot: Snapshot | None,
        timeout_s: float,
        beat: Callable[[], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> Moment | None:
        """Store what waits, then `snapshot`; return what is stored after at most `timeout_s`, or
        once `stopped` returns true while what was there before is stored.

        Calls `beat` about once a second. Waits for an unreachable store, not for one that refuses
        for lack of space or rights. Raises `StoreError`, the last upload's, where the last
        snapshot is not stored.
        """
        deadline_s = time.monotonic() + timeout_s
        self._wait_until_idle(deadline_s, beat, stopped)
        if snapshot is not None and not self._has(snapshot):
            retry = replace(
                RETRY,
                on=TRANSIENT,
                first_wait_s=min(1.0, RETRY.first_wait_s),
                transient=lambda _error: time.monotonic() < deadline_s,
                wait=lambda wait_s: time.sleep(min(wait_s, max(0, deadline_s - time.monotonic()))),
            )
            retry.call(lambda: self._store_last(snapshot, timeout_s, deadline_s, beat))
        return self.durable

    def close(self) -> None:
        """End the thread once nothing is in flight; what waits is dropped."""
        with self._changed:
            self._closed, self._waiting = True, None
            self._changed.notify_all()

    def _store_last(
        self, snapshot: Snapshot, timeout_s: float, deadline_s: float, beat: Callable[[], None]
    ) -> None:
        """Store the job's last snapshot once. Raises `StoreError`."""
        if not self.busy:
            self.submit(snapshot)
            self._wait_until_idle(deadline_s, beat)
        if self.busy or not self._has(snapshot):
            raise self._error or StoreError(
                f"{self._folder.store.uri}: saving step {snapshot.step} took more than "
                f"{timeout_s:.0f} s"
            )

    def _has(self, snapshot: Snapshot) -> bool:
        return self.durable == snapshot.moment and self._error is None

    def _wait_until_idle(
        self,
        deadline_s: float,
        beat: Callable[[], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        with self._changed:
            while self.busy and self._thread.is_alive() and time.monotonic() < deadline_s:
                if stopped() or (self._flying is None and self._refused()):
                    break
                beat()
                self._changed.wait(min(_BEAT_S, max(0.0, deadline_s - time.monotonic())))

    def _refused(self) -> bool:
        """True where the last upload failed in a way that no other attempt fixes."""
        return self._error is not None and not isinstance(self._error, TRANSIENT)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                if self._closed:
                    return
                self._flying, self._waiting = self._waiting, None
            assert self._flying is not None
            error = self._stored(self._flying)
            with self._changed:
                again = error is not None and self._flying.score is not None
                if again and self._waiting is None:
                    self._waiting = self._flying
                self._flying, self._error = None, error
                self._failures = 0 if error is None else self._failures + 1
                self._changed.notify_all()
                if again and not self._closed:
                    wait_s = RETRY.wait_s(self._failures)
                    self._changed.wait_for(lambda: self._closed, wait_s)

    def _stored(self, snapshot: Snapshot) -> StoreError | None:
        """Store, mark and clean up; the error where the store refuses."""
        started_s = time.monotonic()
        try:
            saved = self._folder.save(snapshot)
            self.durable = snapshot.moment
            if snapshot.score is not None:
                best = self._best_of(saved, snapshot)
                self._folder.mark_best(best, snapshot.score)
                self._on_best(best, snapshot)
            kept = self._folder.retain(self._keep, saved.name, snapshot.spared)
            self._on_stored(saved, snapshot, kept)
        except (StoreError, OSError, MemoryError) as error:
            age = "none is stored yet" if self.durable is None else self._age(self.durable)
            log.warning(
                "the checkpoint of step %d could not be stored, training continues (%s): %s",
                snapshot.step,
                age,
                error,
            )
            return error if isinstance(error, StoreError) else StoreError(repr(error))
        took_s = time.monotonic() - started_s
        log.info("the checkpoint of step %d is stored (%.1f s)", snapshot.step, took_s)
        return None

    def _best_of(self, saved: Saved, snapshot: Snapshot) -> Saved:
        """The checkpoint that is the best now: this one, or an earlier one."""
        if snapshot.best_step is None:
            return saved
        found = self._folder.of_step(snapshot.best_step)
        if found is None:
            raise StoreError(
                f"{self._folder.store.uri}: expected the checkpoint of step {snapshot.best_step}, "
                "which is the best, got none"
            )
        return found

    def _age(self, durable: Moment) -> str:
        minutes = durable.age_s / 60
        return f"the last stored one is step {durable.step}, {minutes:.1f} minutes old"
