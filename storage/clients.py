"""One client of a service in each process: made on first use, and again after a fork."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Client = TypeVar("_Client")


class PerProcess(Generic[_Client]):
    """Return the result of `make`, made once a process; safe for threads."""

    def __init__(self, make: Callable[[], _Client]) -> None:
        self._make = make
        self._made: dict[int, _Client] = {}
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> _Client:
        """This process's client."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if pid not in self._made:
                self._made[pid] = self._make()
            return self._made[pid]
