"""Nodes meet at the first one, which may start, and get its name, long after the others."""

import logging
import socket
import time

from adapt.errors import Interrupted, JobError
from adapt.launch.stop import Stop
from adapt.places import Place

POLL_S = 0.5
QUIET_S = 10.0
"""Wait before the first message about it."""

log = logging.getLogger(__name__)


def wait_for_first_node(place: Place, stop: Stop, timeout_s: float | None = None) -> None:
    """Return once the first node's name is known, or a stop is asked for.

    Raises `JobError` where there is no name, `Interrupted` where it stays unknown for `timeout_s`,
    by default `place.nodes_wait_s`: a node that comes later finds the job started again.
    """
    if place.master_addr is None:
        raise JobError(
            "PET_MASTER_ADDR: expected the first node's name, got nothing",
            fix="set PET_MASTER_ADDR to the name or address of node 0",
        )
    timeout_s = place.nodes_wait_s if timeout_s is None else timeout_s
    began_s, told = time.monotonic(), False
    while not stop.asked:
        try:
            socket.getaddrinfo(place.master_addr, place.master_port)
            return
        except OSError as error:
            waited_s = time.monotonic() - began_s
            if waited_s > timeout_s:
                raise Interrupted(
                    f"PET_MASTER_ADDR: expected the first node's name, got {place.master_addr!r}, "
                    f"unknown for {timeout_s:g} s [{error}]. Fix: check that node 0 runs and that "
                    "this node can resolve its name; SEGADAPT_NODES_WAIT_S waits longer."
                ) from error
            if waited_s > QUIET_S and not told:
                log.info("waiting up to %g s for the first node, %s", timeout_s, place.master_addr)
                told = True
        time.sleep(POLL_S)
