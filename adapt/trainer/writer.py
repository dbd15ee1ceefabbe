"""A job as the only writer of its run: the leader holds the lease, all ranks hear a refusal."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event

from adapt.checkpoint.lease import IN_USE_FIX, Lease, RunInUse, Waits, this_process
from adapt.ranks import share_text
from adapt.trainer.opening import Opened


@contextmanager
def sole_writer(opened: Opened, stop: Event, waits: Waits | None = None) -> Iterator[Opened]:
    """The opened job with the lease of its run, for as long as the context lasts.

    `stop` is set where the lease is lost. Raises `RunInUse` where another job trains the run.
    """
    place, folder = opened.place, opened.folder
    waits = waits or Waits(patience_s=place.grace_s + Waits().silent_s)
    lease, refusal = Lease(folder.store, this_process(place.job), stop, waits), None
    with closing(lease):
        if place.leader:
            try:
                lease.claim()
            except RunInUse as error:
                refusal = error.problem
        refusal = share_text(refusal)
        if refusal is not None:
            raise RunInUse(refusal, IN_USE_FIX)
        yield opened._replace(folder=folder.leased(lease)) if place.leader else opened
