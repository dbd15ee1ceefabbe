"""The retry policy of the project: attempts or a deadline, and waits with full jitter.

Every wait is uniform(0, min(longest, first * 2^failures)) seconds ("full jitter": Brooker,
Exponential Backoff and Jitter, AWS 2015), so that ranks which fail together do not retry together.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from storage.errors import FixableError, StoreUnavailable
from storage.transient import ATTEMPTS, TIME

log = logging.getLogger(__name__)

OUTAGE_S = 600.0
"""Longest time in which a job retries an unreachable store."""
DOWNLOADS = 3
"""Attempts to download bytes that arrive wrong."""

_Result = TypeVar("_Result")
_MOST_DOUBLINGS = 30  # beyond, a float overflows after 1000 failures and no wait is that short


def _sleep(wait_s: float) -> None:
    time.sleep(wait_s)


def _always(_error: Exception) -> bool:
    return True


def _quiet(_error: Exception, _failures: int, _wait_s: float) -> None:
    pass


@dataclass(frozen=True)
class Retry:
    """When a failed operation is tried again, and after which wait.

    `max_attempts` counts the first attempt too; None = no limit. `deadline_s` is the time from the
    first failure after which no other attempt begins. Errors of the types `on` are transient where
    `transient(error)` agrees. `wait(seconds)` sleeps; if it returns true, as `threading.Event.wait`
    of a set event, the retries are cancelled. `on_retry(error, failures, wait_s)` is called before
    each wait, for a line in the log or a counter.
    """

    max_attempts: int | None = None
    deadline_s: float = float("inf")
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    on: type[Exception] | tuple[type[Exception], ...] = StoreUnavailable
    transient: Callable[[Exception], bool] = _always
    wait: Callable[[float], object] = _sleep
    on_retry: Callable[[Exception, int, float], object] = _quiet

    def call(self, operation: Callable[[], _Result]) -> _Result:
        """`operation()`, retried. Raises its last error where that is not transient, the attempts
        or the time are used up, or the wait was cancelled."""
        failing = Failing(self)
        while True:
            try:
                return operation()
            except self.on as error:
                failing.wait(error)

    def wait_s(self, failures: int) -> float:
        """The wait after that many failures in a row (>= 1), in seconds."""
        doublings = min(failures - 1, _MOST_DOUBLINGS)
        return random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2**doublings))


class Failing:
    """The failures in a row of a loop that is no single call: a download that progresses, a log
    that is followed."""

    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._failures, self._began_s = 0, 0.0

    def end(self) -> None:
        """Note a success."""
        self._failures = 0

    def wait(self, error: Exception) -> None:
        """Wait before the next attempt. Raises `error` where it is not transient, the attempts or
        the time are used up (and says for how long), or the wait was cancelled."""
        policy, now_s = self._policy, time.monotonic()
        if self._failures == 0:
            self._began_s = now_s
        self._failures += 1
        if self._failures == policy.max_attempts or not policy.transient(error):
            raise error
        wait_s = policy.wait_s(self._failures)
        elapsed_s = now_s - self._began_s
        if elapsed_s + wait_s >= policy.deadline_s:
            raise _lasting(error, elapsed_s)
        policy.on_retry(error, self._failures, wait_s)
        if policy.wait(wait_s):
            raise error


def _lasting(error: Exception, elapsed_s: float) -> Exception:
    """The error after retries of so many seconds."""
    if not isinstance(error, FixableError):
        return error
    lasting = type(error)(f"{error.problem}, retried for {elapsed_s:.0f} s", error.fix)
    lasting.__cause__ = error
    return lasting


_OUTAGES: ContextVar[Retry | None] = ContextVar("outages", default=None)


@contextmanager
def outages_waited_for(
    wait: Callable[[float], object] = _sleep, longest_s: float = OUTAGE_S
) -> Iterator[None]:
    """Inside, in this thread, operations of stores also wait for what time may repair, from
    a process's first request on, and say so once an outage. `wait` is as `Retry.wait`.

    A job's start is inside. Commands at a terminal are not, so that a wrong address ends them; nor
    is a save, as the next one tries again.
    """

    def report(error: Exception, failures: int, _wait_s: float) -> None:
        if failures == 1:
            log.warning("%s; retrying for up to %.0f s", _problem(error), longest_s)

    policy = Retry(None, longest_s, 0.5, 10.0, TIME, wait=wait, on_retry=report)
    token = _OUTAGES.set(policy)
    try:
        yield
    finally:
        _OUTAGES.reset(token)


def _problem(error: Exception) -> str:
    return error.problem if isinstance(error, FixableError) else str(error)


def retried(operation: Callable[[], _Result], max_attempts: int) -> _Result:
    """`operation()`, tried at most `max_attempts` times while it raises one of `ATTEMPTS`; and
    again while an outage lasts, inside of `outages_waited_for`."""
    attempts, outages = Retry(max_attempts, on=ATTEMPTS), _OUTAGES.get()
    if outages is None:
        return attempts.call(operation)
    return outages.call(lambda: attempts.call(operation))
