"""Delivery: the one thread that talks to MLflow and sends it the spool in order.

It starts at the first undelivered byte and holds at most one chunk of the spool in memory. It tries
until it is told to stop; what the server refuses for good is skipped with a warning.
"""

import logging
import re
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from adapt.tracking.mlflow_run import REFUSALS, MlflowRun, be_brief, code_of, failures, first_line
from adapt.tracking.spool import Entry, Spool
from storage.uris import without_password

log = logging.getLogger(__name__)

_LINGER_S = 0.5
_BACKOFF_S = (1.0, 30.0)
_REPORT_S = 5.0
_MAX_STRIKES = 5
_CLOSED_DOOR = {
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "ENDPOINT_NOT_FOUND",
}
_CURES = (
    (
        "Invalid Host header",
        "the server does not know the host name that the job uses: start it with "
        "`mlflow server --allowed-hosts HOST:PORT` (or MLFLOW_SERVER_ALLOWED_HOSTS), written "
        "exactly as in the tracking URI",
    ),
    (
        "UNAUTHENTICATED|CUSTOMER_UNAUTHORIZED",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in "
        "the job's environment",
    ),
    ("PERMISSION_DENIED", "give the job's MLflow user the right to edit the experiment"),
    ("ENDPOINT_NOT_FOUND", "check the path of the URI: no MLflow server answers there"),
    (
        "must be in (the )?'?active'?",
        "the experiment was deleted: restore it with `mlflow experiments restore`, or choose "
        "another tracking.experiment",
    ),
    (r"^INTERNAL_ERROR \[Errno|readonly database", "see that the database's folder can be written"),
    ("", "see that the server is up and can be reached from the job"),
)


class Delivery(threading.Thread):
    """Sends `spool` to the run of `experiment` at `uri` until `drain` ends it.

    start: the spool's `start` entry. run_id: the run that the job's checkpoint names, if any.
    late: the job has ended, and may have gone on elsewhere.
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
        self._strikes = 0
        self._warned: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """The run's id; None while the server has not been reached."""
        return self._run.run_id

    def drain(self, timeout_s: float, report: Callable[[int, int], object] | None = None) -> bool:
        """Send what waits for at most `timeout_s`, then stop. Says whether everything went.

        report: called every few seconds with how many entries went and how many wait.
        """
        self._deadline_s = time.monotonic() + timeout_s
        self.wake.set()
        self._hurry.set()
        while self.is_alive() and (left_s := self._deadline_s - time.monotonic()) > 0:
            self.join(left_s if report is None else min(_REPORT_S, left_s))
            if report is not None and self.is_alive():
                report(self.delivered, self._spool.waiting)
        if self._spool.waiting:
            log.warning(
                "MLflow at %s has not received %d entries; they stay in %s: start the job again "
                "with this folder, or send them with `segadapt sync-metrics %s`",
                without_password(self._uri),
                self._spool.waiting,
                self._spool.path,
                shlex.quote(str(self._spool.path)),
            )
        return not self._spool.waiting

    def run(self) -> None:
        """Send what waits, as it comes; after `drain`, until nothing waits or time is up."""
        be_brief()
        known = failures()
        backoff_s = _BACKOFF_S[0]
        while not self._over():
            try:
                self._send_waiting(known)
                backoff_s = _BACKOFF_S[0]
                self._wait_for_more()
            except known as error:
                self._explain(error)
                self._back_off(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_S[1])

    def _over(self) -> bool:
        if self._deadline_s is None:
            return False
        return not self._spool.waiting or time.monotonic() > self._deadline_s

    def _wait_for_more(self) -> None:
        if self._deadline_s is None:
            self.wake.wait()
            self.wake.clear()
            self._hurry.wait(_LINGER_S)

    def _back_off(self, pause_s: float) -> None:
        if self._deadline_s is None:
            self._hurry.wait(pause_s)
        else:
            time.sleep(max(0.0, min(_BACKOFF_S[0], self._deadline_s - time.monotonic())))

    def _send_waiting(self, known: tuple[type[Exception], ...]) -> None:
        while not self._over():
            chunk = list(self._spool.read())
            if not chunk:
                return
            self._spool.run_id = self._run.attach(chunk[0][0]["time_ms"])
            for kind, group in groupby(chunk, key=lambda item: item[0]["kind"]):
                self._send(kind, list(group), known)

    def _send(
        self, kind: str, group: Sequence[tuple[Entry, int]], known: tuple[type[Exception], ...]
    ) -> None:
        """Send entries of one kind; where several are refused together, one by one."""
        try:
            self._run.send(kind, [entry for entry, _ in group])
        except known as error:
            if not self._is_hopeless(error, known):
                raise
            if len(group) > 1:
                for item in group:
                    self._send(kind, [item], known)
                return
            self._warn(f"MLflow refuses {kind}; left out: {first_line(error)}")
            self.delivered -= len(group)
        self._strikes = 0
        self.delivered += len(group)
        self._spool.mark(group[-1][1], len(group))
        if self._warned and "outage" in self._warned:
            self._warned.clear()
            log.info("MLflow at %s answers again", without_password(self._uri))

    def _is_hopeless(self, error: Exception, known: tuple[type[Exception], ...]) -> bool:
        """Refused by its content, or failed time and again while the server answers other calls."""
        code = code_of(error)
        if code in REFUSALS or code in _CLOSED_DOOR:
            return code in REFUSALS
        try:
            self._run.touch()
        except known:
            return False
        self._strikes += 1
        return self._strikes >= _MAX_STRIKES

    def _explain(self, error: Exception) -> None:
        """One warning, with the cure, for each kind of outage."""
        cure = cure_of(error)
        message = (
            f"MLflow at {without_password(self._uri)} takes nothing now; training goes on, figures "
            f"wait in {self._spool.path}. To mend it: {cure} [{first_line(error)}]"
        )
        self._warn(message, once=cure)
        self._warned.add("outage")

    def _warn(self, message: str, once: str | None = None) -> None:
        if (once or message) not in self._warned:
            log.warning("%s", message)
        self._warned.add(once or message)


def cure_of(error: Exception) -> str:
    """What a person can do about one of `failures()`."""
    text = f"{code_of(error)} {error}"
    return next(cure for sign, cure in _CURES if re.search(sign, text))
