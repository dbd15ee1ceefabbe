"""Progress and stops of shards that threads pack or verify side by side."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from typing import TypeVar

POLL_S = 0.2


Result = TypeVar("Result")


class Stopped(Exception):
    """Another shard failed, so this one ends too; never leaves the pool."""


class SampleCounter:
    """How many samples the threads have done, and whether they are to stop."""

    def __init__(self, done: int) -> None:
        self.done = done
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def check(self) -> None:
        """Raises `Stopped` where another shard or the caller has failed."""
        if self.stop.is_set():
            raise Stopped

    def add(self, samples: int = 1) -> None:
        """Count more samples as done."""
        with self.lock:
            self.done += samples


@contextmanager
def stopping(counter: SampleCounter) -> Iterator[None]:
    """Stops the threads when the block fails, so that their pool does not do the rest."""
    try:
        yield
    except BaseException:
        counter.stop.set()
        raise


def watch(
    jobs: list[Future[Result]], counter: SampleCounter, report: Callable[[int], None]
) -> None:
    """Report progress until all jobs have ended; raises the first failure immediately."""
    waiting = set(jobs)
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for job in ended:
            job.result()
        report(counter.done)
