"""Spreads a stop that one rank received to all within a second.

A platform may reclaim one node of several, and a rank may be waiting for data or evaluating when
that happens. Knowing is not agreeing: ranks agree on where to stop by a collective of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import torch.distributed as dist
from torch.distributed import distributed_c10d

POLL_S = 0.5
_KEY = "segadapt/stop"


@contextmanager
def shared(stop: Event) -> Iterator[None]:
    """Keep the ranks' `stop` events the same: once one is set, all are within a second."""
    if not dist.is_initialized():
        yield
        return
    ended = Event()
    thread = Thread(target=_spread, args=(stop, ended), name="shared stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _spread(stop: Event, ended: Event) -> None:
    store = distributed_c10d._get_default_store()
    while not ended.is_set():
        try:
            if stop.wait(POLL_S):
                store.set(_KEY, "asked")
                return
            if store.check([_KEY]):
                stop.set()
                return
        except (RuntimeError, dist.DistError):
            return  # the store's process is gone: the next collective raises
