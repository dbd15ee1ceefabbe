"""Stopping a container: the engine sends SIGTERM, and SIGKILL after the grace.

The engine answers a stop when the container has ended. We do not wait for that: its events show
that the stop has begun.
"""

import logging
import re
import time
from datetime import datetime
from threading import Thread
from typing import Any

from adapt.errors import JobError
from adapt.platforms.docker.errors import answers_of
from storage.errors import StoreUnavailable

POLL_S = 0.2
ENGINES_GRACE_S = 10
RUNNING = ("running", "paused", "restarting")
_HASTY = re.compile(r"(23\.0\.[0-6]|24\.0\.[0-2])(?!\d)")

log = logging.getLogger(__name__)


def is_hasty(version: str) -> bool:
    """Return whether an engine kills a container immediately when the client of a stop disconnects:
    23.0.0 to 23.0.6 and 24.0.0 to 24.0.2 (moby#45731)."""
    return _HASTY.match(version) is not None


def stop(engine: Any, where: str, container: Any) -> None:
    """Return as soon as the engine has sent SIGTERM, and on a hasty engine when the container has
    ended; do nothing where it has ended, or was sent SIGTERM within its grace.

    Raises `JobError`, `StoreUnavailable`.
    """
    grace_s = container.attrs["Config"].get("StopTimeout")
    if container.attrs["State"]["Status"] not in RUNNING:
        return
    with answers_of(where):
        info = engine.info()
    signals = _Signals(engine, where, container, str(info["SystemTime"]))
    if signals.came(-(grace_s or ENGINES_GRACE_S)):
        return
    asking = _Asking(where, container, grace_s)
    asking.start()
    if is_hasty(str(info["ServerVersion"])):
        log.warning(
            "engine %s kills a job whose stop is not waited for; waiting until %s has ended",
            info["ServerVersion"],
            container.name,
        )
        asking.join()
    while asking.is_alive() and not signals.came(0):
        asking.join(POLL_S)
    if asking.trouble is not None:
        raise asking.trouble


class _Asking(Thread):
    """Requests the stop; the engine answers when the container has ended."""

    def __init__(self, where: str, container: Any, grace_s: int | None) -> None:
        super().__init__(daemon=True)
        self._where, self._container, self._grace_s = where, container, grace_s
        self.trouble: JobError | StoreUnavailable | None = None

    def run(self) -> None:
        try:
            with answers_of(self._where):
                self._container.stop(timeout=self._grace_s)
        except (JobError, StoreUnavailable) as error:
            self.trouble = error


class _Signals:
    """The engine's SIGTERMs to a container, by the engine's clock, which is not ours."""

    def __init__(self, engine: Any, where: str, container: Any, engine_time: str) -> None:
        self._engine, self._where, self._container = engine, where, container
        self._begun_s = datetime.fromisoformat(engine_time).timestamp()
        self._begun = time.monotonic()

    def came(self, after_s: float) -> bool:
        """Return whether one came, not earlier than `after_s` from this object's beginning."""
        now_s = self._begun_s + time.monotonic() - self._begun
        with answers_of(self._where):
            events = self._engine.events(
                since=f"{self._begun_s + after_s:.6f}",
                until=f"{now_s:.6f}",
                filters={"container": self._container.id, "event": "kill"},
                decode=True,
            )
            return any(event["Actor"]["Attributes"].get("signal") == "15" for event in events)
