"""The lease of a run: one process at a time writes it.

    RUN/WRITER.json    the writer: host, process, job, a count that goes up while it lives, and
                       the time that the run has taken, which a kill therefore does not lose

No clocks are compared: a process that wants the run watches whether the count goes up. A write of
the lease replaces exactly what was read before (`Store.swap`), so of several claims one succeeds;
on a store without conditional writes a claim is read back after a while. The writer checks the
lease before every write that others rely on, so one that was taken for dead does no harm. During an
outage no other process can read the lease either: training continues.
"""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from threading import Event, Thread
from typing import NamedTuple

from adapt.checkpoint.processes import has_ended, process_space, start_ticks
from adapt.checkpoint.spent import NOTHING, Spent
from adapt.errors import Interrupted, JobError
from storage.errors import MissingObject, StoreError
from storage.store import Store

log = logging.getLogger(__name__)

LEASE = "WRITER.json"
TRAINING, STOPPING, ENDED = "training", "stopping", "ended"
IN_USE_FIX = "wait for its end, stop it, or give this job another name (--set name=...)"

_held_here: set[str] = set()
"""Owners of the leases that this process holds."""


class RunInUse(JobError):
    """Another job trains the run."""


class LeaseLost(StoreError):
    """Another process writes the run by now, since this one was silent for too long."""

    exit_code = Interrupted.exit_code


class Waits(NamedTuple):
    """Times of a lease in seconds.

    The writer counts up every `beat_s`. A count that stands still for `silent_s` is a dead
    writer's; for `restart_s`, where the same job asks. A writer that is stopping, or of the same
    job, is waited for until `patience_s`. `settle_s` is for stores without conditional writes.
    """

    beat_s: float = 5.0
    silent_s: float = 60.0
    restart_s: float = 12.0
    patience_s: float = 120.0
    settle_s: float = 3.0
    poll_s: float = 0.5
    release_s: float = 2.0


class Writer(NamedTuple):
    """The content of a lease. `job` is the platform's name of the job; `space` and `started` are as
    in `adapt.checkpoint.processes`; `spent` is that of the run until the count."""

    owner: str
    host: str
    pid: int
    space: str | None = None
    started: int | None = None
    job: str | None = None
    beat: int = 0
    state: str = TRAINING
    spent: Spent = NOTHING

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.pid}"


def this_process(job: str | None) -> Writer:
    """This process as the writer of a run, for a platform's `job`."""
    pid, host = os.getpid(), socket.gethostname()
    return Writer(uuid.uuid4().hex, host, pid, process_space(), start_ticks(pid), job)


class Lease:
    """The lease of the run at `store`, for the process `me`.

    `stop` is set where the job is asked to end, and by the lease where it is lost. `before` is the
    time that the run had taken when it was claimed; `spent` gives it while this process trains.
    """

    def __init__(self, store: Store, me: Writer, stop: Event, waits: Waits) -> None:
        self._store, self._me, self._stop, self._waits = store, me, stop, waits
        self._run = store.uri.rpartition("/")[2]
        self._bytes: bytes | None = None
        self._lost: LeaseLost | None = None
        self._released, self._away = Event(), False
        self._beaten_s = time.monotonic()
        self.before = NOTHING
        self.spent: Callable[[], Spent] | None = None
        self._thread = Thread(target=self._keep, name="lease", daemon=True)

    def claim(self) -> None:
        """Become the run's writer: immediately where the last one has certainly ended.

        Raises `RunInUse`, `StoreError`, and `Interrupted` where the job is asked to end.
        """
        began_s = since_s = time.monotonic()
        seen = self._read()
        self._say_who(seen)
        while not self._claimed(seen, time.monotonic() - since_s):
            if self._stop.wait(self._waits.poll_s):
                raise Interrupted(f"stopped while run {self._run} had another writer")
            asked_s = time.monotonic()
            found = self._read()
            now_s = time.monotonic()
            if found != seen:
                self._refuse_living(seen, found, now_s - asked_s, now_s - began_s)
            if found != seen or now_s - asked_s > self._waits.beat_s:  # or an outage ended
                seen, since_s = found, now_s
        _held_here.add(self._me.owner)
        self._thread.start()

    def check(self) -> None:
        """Raise `LeaseLost` where another process writes the run by now, `StoreError` where the
        store does not tell."""
        self._compare(self._read())
        self.raise_if_lost()

    def raise_if_lost(self) -> None:
        """Raise `LeaseLost` where that is known."""
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Release the lease, unless it is lost or the store is unreachable."""
        _held_here.discard(self._me.owner)
        self._released.set()
        if self._thread.is_alive():
            self._thread.join(self._waits.release_s)

    def _claimed(self, seen: bytes | None, still_s: float) -> bool:
        """Take the lease where it is free; whether it is ours. Its content has been the same for
        `still_s`."""
        if seen is not None and _parsed(seen).owner == self._me.owner:
            self._bytes = seen  # the answer to our claim was lost
            return True
        if seen is not None and not self._is_over(_parsed(seen), still_s):
            return False
        self.before = NOTHING if seen is None else _parsed(seen).spent
        self._me = self._me._replace(spent=self.before)
        mine = _encoded(self._me)
        if not self._store.swap(LEASE, seen, mine):
            return False
        if self._store.swap(LEASE, None, mine):  # a store that does not look
            time.sleep(self._waits.settle_s)
            if self._read() != mine:
                return False
        self._bytes, self._beaten_s = mine, time.monotonic()
        return True

    def _is_over(self, writer: Writer, still_s: float) -> bool:
        """True where a writer has ended, or is taken for dead."""
        me = self._me
        if writer.state == ENDED:
            return True
        if writer.space is not None and writer.space == me.space:
            if writer.pid == me.pid and writer.started == me.started:
                return writer.owner not in _held_here
            if has_ended(writer.pid, writer.started):
                return True
        elif self._is_same_job(writer) and writer.host == me.host:
            return True  # an earlier life of this very container
        longest_s = self._waits.restart_s if self._is_same_job(writer) else self._waits.silent_s
        return still_s > longest_s

    def _is_same_job(self, writer: Writer) -> bool:
        return writer.job is not None and writer.job == self._me.job

    def _say_who(self, seen: bytes | None) -> None:
        writer = None if seen is None else _parsed(seen)
        if writer is not None and not self._is_over(writer, 0):
            same = self._is_same_job(writer)
            longest_s = self._waits.restart_s if same else self._waits.silent_s
            log.info(
                "run %s: expected no other writer, got %s; it is taken for dead without a sign in "
                "%.0f s",
                self._run,
                writer,
                longest_s,
            )

    def _refuse_living(
        self, seen: bytes | None, found: bytes | None, age_s: float, waited_s: float
    ) -> None:
        """Raise `RunInUse` where the writer gave a sign, `age_s` ago at most, and continues."""
        if found is None:
            return
        writer = _parsed(found)
        old = None if seen is None else _parsed(seen).owner
        if writer.owner in (self._me.owner, "") or writer.state == ENDED:
            return
        leaves = writer.state == STOPPING or self._is_same_job(writer) or writer.owner != old
        if leaves and waited_s < self._waits.patience_s:
            return
        raise RunInUse(
            f"run {self._run} is being trained by {writer}, last seen "
            f"{age_s + self._waits.poll_s:.0f} s ago ({self._store.uri}/{LEASE})",
            IN_USE_FIX,
        )

    def _read(self) -> bytes | None:
        try:
            return self._store.get(LEASE)
        except MissingObject:
            return None

    def _keep(self) -> None:
        """The thread of a writer: count up until the end."""
        state = TRAINING
        while not self._released.wait(self._waits.poll_s) and self._lost is None:
            stops = self._stop.is_set() and state == TRAINING
            if stops or time.monotonic() - self._beaten_s >= self._waits.beat_s:
                state = STOPPING if self._stop.is_set() else TRAINING
                self._beat(state)
        if self._lost is None:
            self._beat(ENDED)

    def _beat(self, state: str) -> None:
        spent = self._me.spent if self.spent is None else self.spent()
        self._me = self._me._replace(beat=self._me.beat + 1, state=state, spent=spent)
        new = _encoded(self._me)
        try:
            if self._store.swap(LEASE, self._bytes, new):
                self._bytes = new
            else:
                self._bytes = self._read()  # ours where an answer was lost
                self._compare(self._bytes)
        except (StoreError, OSError) as error:
            if not self._away:
                log.warning("%s is not refreshed, training continues: %s", LEASE, error)
            self._away = True
        else:
            self._away = False
        self._beaten_s = time.monotonic()

    def _compare(self, found: bytes | None) -> None:
        """Note a loss; a lease that was deleted is not lost."""
        if found is None or _parsed(found).owner == self._me.owner or self._lost is not None:
            return
        self._lost = LeaseLost(
            f"run {self._run} is being trained by {_parsed(found)} by now: this process was silent "
            f"for more than {self._waits.silent_s:.0f} s, and stops without a save",
            fix="let that one train, or stop it and run this command again",
        )
        self._stop.set()


def _encoded(writer: Writer) -> bytes:
    return json.dumps(writer._asdict()).encode()


def _parsed(lease: bytes) -> Writer:
    """The writer that a lease names; one without a name where it is damaged."""
    try:
        values = json.loads(lease)
        writer = Writer(**{key: values[key] for key in Writer._fields if key in values})
        return writer._replace(spent=Spent.read(writer.spent))
    except (ValueError, TypeError):
        return Writer("", "unknown", 0)
