"""Delivery: the one thread that talks to MLflow and sends it the spool in order.

It starts at the first undelivered byte and keeps at most one chunk of the spool in memory. It
retries until it is stopped; an entry that the server refuses for good is skipped with a warning.
"""

import logging
import math
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from adapt.tracking.mlflow_database import check_writable, embedded_folder
from adapt.tracking.mlflow_entries import SENDERS, halves, name_of
from adapt.tracking.mlflow_errors import (
    MALFORMED,
    REFUSALS,
    be_brief,
    code_of,
    failures,
    first_line,
    fix_of,
)
from adapt.tracking.mlflow_run import MlflowRun
from adapt.tracking.spool import Entry, Spool
from storage.retry import Retry
from storage.uris import without_password

log = logging.getLogger(__name__)

_LINGER_S = 0.5
_RETRY = Retry(first_wait_s=2.0, longest_wait_s=30.0)
_LAST_WAIT_S = 1.0
"""The longest wait between attempts while the job waits for its end."""
_REPORT_S = 5.0
_POLL_S = 0.2
_FAILING_WAIT_S = 60.0
"""The longest wait of a job's end for an MLflow that fails all that time."""
_MAX_STRIKES = 5
_REFUSED = "refused: "
_CLOSED_DOOR = {
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "ENDPOINT_NOT_FOUND",
}


class Delivery(threading.Thread):
    """Sends `spool` to the run of `experiment` at `uri` until `drain` ends it.

    start: the spool's `start` entry. run_id: the run that the job's checkpoint names, if any.
    late: the job has ended, and may have resumed elsewhere.
    """

    def __init__(
        self,
        spool: Spool,
        experiment: str,
        uri: str,
        start: Entry,
        run_id: str | None,
        *,
        late: bool = False,
    ) -> None:
        super().__init__(name="tracker", daemon=True)
        self.delivered = 0
        self.wake = threading.Event()
        self._spool = spool
        self._uri = uri
        run_ids = (run_id, spool.run_id)
        self._run = MlflowRun(experiment, uri, start, run_ids, self._warn, late=late)
        self._hurry = threading.Event()
        self._deadline_s: float | None = None
        self._took_s = -math.inf
        self._strikes = 0
        self._warned: set[str] = set()
        self._abandoned = False

    @property
    def run_id(self) -> str | None:
        """The run's id; None while the server has not been reached."""
        return self._run.run_id

    def drain(
        self,
        timeout_s: float,
        report: Callable[[int, int], object] | None = None,
        limit_s: Callable[[], float] = lambda: math.inf,
    ) -> bool:
        """Send the buffered entries for at most `timeout_s`, then stop. Returns whether all went.

        An MLflow that receives nothing for a minute is given up. report: called every few seconds
        with the numbers of entries that are sent and buffered. limit_s: called a few times a second
        for the seconds that may still be waited, as after a stop.
        """
        start_s = time.monotonic()
        deadline_s, report_s = start_s + timeout_s, start_s + _REPORT_S
        self._deadline_s = deadline_s
        self.wake.set()
        self._hurry.set()
        while self.is_alive() and (left_s := self._deadline_s - time.monotonic()) > 0:
            self.join(min(_POLL_S, left_s))
            deadline_s = min(deadline_s, time.monotonic() + limit_s())
            self._deadline_s = deadline_s
            if "outage" in self._warned:
                took_s = max(start_s, self._took_s)
                self._deadline_s = min(deadline_s, took_s + _FAILING_WAIT_S)
            if report is not None and self.is_alive() and time.monotonic() >= report_s:
                report(self.delivered, self._spool.waiting)
                report_s += _REPORT_S
        self._abandoned = True
        if self._spool.waiting:
            path = self._spool.path.absolute()
            log.warning(
                "MLflow at %s has not received %d entries; they are buffered in %s. Fix: start the "
                "job again with this folder, or run `segadapt sync-metrics %s`",
                without_password(self._uri),
                self._spool.waiting,
                path,
                shlex.quote(str(path)),
            )
        return not self._spool.waiting

    def run(self) -> None:
        """Send entries as they come; after `drain`, until none is left or time is up."""
        be_brief()
        known = failures()
        retry = replace(_RETRY, on=known, wait=self._back_off, on_retry=self._explain)
        while not self._over():
            retry.call(partial(self._send_waiting, known))
            self._wait_for_more()

    def _over(self) -> bool:
        if self._deadline_s is None:
            return False
        return not self._spool.waiting or time.monotonic() > self._deadline_s

    def _wait_for_more(self) -> None:
        if self._deadline_s is None:
            self.wake.wait()
            self.wake.clear()
            self._hurry.wait(_LINGER_S)

    def _back_off(self, wait_s: float) -> None:
        if self._deadline_s is None:
            self._hurry.wait(wait_s)
        else:
            left_s = self._deadline_s - time.monotonic()
            time.sleep(max(0.0, min(wait_s, _LAST_WAIT_S, left_s)))

    def _send_waiting(self, known: tuple[type[Exception], ...]) -> None:
        while not self._over():
            chunk = list(self._spool.read())
            if not chunk:
                return
            attached = self._run.run_id is not None
            self._spool.run_id = self._run.attach(chunk[0][0]["time_ms"])
            if not attached and self._run.page is not None:
                log.info("MLflow shows the run at %s", self._run.page)
            for kind, group in groupby(chunk, key=lambda item: item[0]["kind"]):
                self._send(kind, list(group), known)

    def _send(
        self, kind: str, group: Sequence[tuple[Entry, int]], known: tuple[type[Exception], ...]
    ) -> None:
        """Send entries of one kind and mark them as delivered."""
        lost = self._send_parts(kind, [entry for entry, _ in group], known)
        self._strikes, self._took_s = 0, time.monotonic()
        self.delivered += len(group) - lost
        self._spool.mark(group[-1][1], len(group))
        if self._warned and "outage" in self._warned:
            self._warned = {kind for kind in self._warned if kind.startswith(_REFUSED)}
            log.info("MLflow at %s is reachable again", without_password(self._uri))

    def _send_parts(
        self, kind: str, entries: list[Entry], known: tuple[type[Exception], ...]
    ) -> int:
        """Send entries; where several values are refused together, in halves, down to the single
        value that is lost. Returns how many entries are lost entirely."""
        try:
            SENDERS[kind](self._run, entries)
        except known + MALFORMED as error:
            if not isinstance(error, MALFORMED) and not self._is_hopeless(error, known):
                raise
            parts = halves(entries)
            lost = [self._send_parts(kind, part, known) for part in parts]
            if len(entries) > 1:
                return sum(lost)
            if parts:
                return min(lost)
            name = " ".join(filter(None, (kind, name_of(entries[0]))))
            message = f"MLflow refuses {name}, which is skipped: {first_line(error)}"
            self._warn(message, once=f"{_REFUSED}{name}")
            return 1
        return 0

    def _is_hopeless(self, error: Exception, known: tuple[type[Exception], ...]) -> bool:
        """Return whether an entry is refused for its content, or keeps failing on a server that
        works."""
        code = code_of(error)
        if code in REFUSALS or code in _CLOSED_DOOR:
            return code in REFUSALS
        if "OperationalError" in str(error):  # the database is locked, full or away
            return False
        try:
            self._run.touch()
        except known:
            return False
        self._strikes += 1
        return self._strikes >= _MAX_STRIKES

    def _explain(self, error: Exception, _failures: int, _wait_s: float) -> None:
        """One warning, with the fix, for each kind of outage."""
        if "readonly database" in str(error) and embedded_folder(self._uri) is not None:
            try:
                check_writable(self._uri)
            except OSError as cause:
                error = cause
            else:  # another process has replaced the file: take the new one
                log.debug("%s: %s", self._uri, first_line(error))
                self._run.reopen()
                return
        fix = fix_of(error)
        message = (
            f"MLflow at {without_password(self._uri)} is unreachable [{first_line(error)}]; "
            f"training continues and metrics are buffered in {self._spool.path}. Fix: {fix}"
        )
        self._warn(message, once=fix)
        self._warned.add("outage")

    def _warn(self, message: str, once: str | None = None) -> None:
        """Log a message, once; nothing after `drain`: what fails then fails because the process
        ends."""
        if (once or message) not in self._warned and not self._abandoned:
            log.warning("%s", message)
        self._warned.add(once or message)
