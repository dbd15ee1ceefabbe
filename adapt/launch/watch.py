"""The watchdog: ranks that have made no progress for longer than their job allows."""

import time
from pathlib import Path

from adapt.checkpoint.processes import is_alive
from adapt.launch.rank_status import RankStatus, beat_s, read_statuses


class Watch:
    """Finds the ranks of a node that have stalled.

    Progress is a start, a heartbeat or an ending; its age is taken from this process's own clock,
    which nobody sets.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signs: dict[int, tuple[tuple[float, float], float]] = {}

    def stalled(self) -> list[RankStatus]:
        """The living ranks without progress for longer than their `stall_s`."""
        now_s, found = time.monotonic(), []
        for status in read_statuses(self._folder):
            sign = (status.time_s, beat_s(self._folder, status.rank))
            seen = self._signs.get(status.rank)
            if seen is None or seen[0] != sign:
                self._signs[status.rank] = (sign, now_s)
            elif now_s - seen[1] > status.stall_s and is_alive(status.pid):
                found.append(status)
        return found
