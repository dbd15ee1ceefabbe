"""The retry policy of the project: attempts or a deadline, and waits with full jitter.

Every wait is uniform(0, min(longest, first * 2^failures)) seconds ("full jitter": Brooker,
Exponential Backoff and Jitter, AWS 2015), so that ranks which fail together do not retry together.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from storage.errors import StoreUnavailable

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
    first attempt after which no other one begins. Errors of the types `on` are transient where
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
        started_s, failures = time.monotonic(), 0
        while True:
            try:
                return operation()
            except self.on as error:
                failures += 1
                wait_s = self.wait_s(failures)
                elapsed_s = time.monotonic() - started_s
                if self._is_last(failures, elapsed_s + wait_s) or not self.transient(error):
                    raise
                self.on_retry(error, failures, wait_s)
                if self.wait(wait_s):
                    raise

    def wait_s(self, failures: int) -> float:
        """The wait after that many failures in a row (>= 1), in seconds; for loops of their own."""
        doublings = min(failures - 1, _MOST_DOUBLINGS)
        return random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2**doublings))

    def _is_last(self, failures: int, next_s: float) -> bool:
        return failures == self.max_attempts or next_s >= self.deadline_s


def retried(operation: Callable[[], _Result], max_attempts: int) -> _Result:
    """`operation()`, tried at most `max_attempts` times while it raises `StoreUnavailable`."""
    return Retry(max_attempts).call(operation)
