"""Following a job's log to its end, over outages of its platform: written once.

A platform only fetches the new lines and reports whether the job has ended. Its position between
two fetches (a time, a token, a number of bytes) is its own.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from storage.errors import StoreUnavailable
from storage.retry import Failing, Retry

_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


def _report(error: Exception, failures: int, _wait_s: float) -> None:
    if failures == 2:  # the first is often a stream that broke off
        log.warning("%s; retrying for %.0f minutes", error, OUTAGE.deadline_s / 60)


OUTAGE = Retry(deadline_s=600.0, first_wait_s=2.0, longest_wait_s=10.0, on_retry=_report)
"""Retries of a platform that is unreachable. Jobs are followed for days."""


def over_outages(read: Callable[[], _Result]) -> _Result:
    """`read()`, retried over an outage. Raises `StoreUnavailable` when that lasts too long."""
    return OUTAGE.call(read)


def follow(
    fetch_new: Callable[[bool], Iterable[str]],
    ended: Callable[[], bool],
    poll_s: float,
    settle_polls: int = 0,
) -> Iterator[str]:
    """Yield the lines of a job's log until the job has ended.

    `ended()` is called before each fetch, so that the last lines are not missed, and its result is
    passed to `fetch_new(ended)`, which returns the lines after those that it returned before, also
    where it was cut off by an error. After the end the log is complete with `settle_polls` fetches
    in a row without a new line.

    Raises `StoreUnavailable` after an outage of `OUTAGE.deadline_s`, and other errors
    immediately.
    """
    outage, quiet = Failing(OUTAGE), 0
    while True:
        try:
            is_last, is_quiet = ended(), True
            for line in fetch_new(is_last):
                is_quiet = False
                outage.end()
                yield line
        except StoreUnavailable as error:
            outage.wait(error)
            continue
        outage.end()
        quiet = quiet + 1 if is_last and is_quiet else 0
        if is_last and quiet >= settle_polls:
            return
        time.sleep(poll_s)
