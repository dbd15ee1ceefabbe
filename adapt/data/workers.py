"""Counters and stops of parallel packing."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from typing import TypeVar

POLL_S = 0.2


Result = TypeVar("Result")


class Stopped(Exception):
    """Another shard failed, so this one is given up; never leaves this module."""


class Counter:
    """How many samples the threads have done, and whether they are to stop."""

    def __init__(self, done: int) -> None:
        self.done = done
        self.stop = threading.Event()
        self.lock = threading.Lock()

    def check(self) -> None:
        """Raises `Stopped` where another shard has failed, or the caller has."""
        if self.stop.is_set():
            raise Stopped

    def add(self, samples: int = 1) -> None:
        """So many samples more."""
        with self.lock:
            self.done += samples


@contextmanager
def stopping(counter: Counter) -> Iterator[None]:
    """Tells the threads to stop when the block fails, so that their pool does not pack the rest."""
    try:
        yield
    except BaseException:
        counter.stop.set()
        raise


def watch(jobs: list[Future[Result]], counter: Counter, report: Callable[[int], None]) -> None:
    """Report progress until all jobs have ended; raises the first failure at once."""
    waiting = set(jobs)
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        for job in ended:
            job.result()
        report(counter.done)
