"""Nodes meet at the first one, which may get its name after the others started."""

import socket
import time

from adapt.errors import JobError
from adapt.launch.stop import Stop
from adapt.places import Place

NAME_TIMEOUT_S = 120.0
POLL_S = 0.5


def wait_for_first_node(place: Place, stop: Stop, timeout_s: float | None = None) -> None:
    """Return once the first node's name is known, or a stop is asked for.

    Raises `JobError` where there is no name, or it stays unknown.
    """
    if place.master_addr is None:
        raise JobError(
            "PET_MASTER_ADDR: expected the first node's name, got nothing",
            fix="set PET_MASTER_ADDR to the name or address of node 0",
        )
    timeout_s = NAME_TIMEOUT_S if timeout_s is None else timeout_s
    deadline_s = time.monotonic() + timeout_s
    while not stop.asked:
        try:
            socket.getaddrinfo(place.master_addr, place.master_port)
            return
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise JobError(
                    f"PET_MASTER_ADDR: expected the first node's name, got {place.master_addr!r}, "
                    f"unknown for {timeout_s:g} s [{error}]",
                    fix="check that node 0 runs and that this node can resolve its name",
                ) from error
        time.sleep(POLL_S)
