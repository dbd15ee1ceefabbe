"""A stop of the job: the first SIGTERM or SIGINT, passed on once, and the time left after it."""

import math
import os
import signal
import subprocess
import time
from contextlib import suppress
from types import FrameType

END_S = 1.0
"""Time for the end of the supervisor itself."""
RESERVED_S = 4.0
"""Part of the platform's grace that the ranks do not get, since the supervisor needs it."""


class Stop:
    """From now on the first SIGTERM is passed on once, whenever the process to pass it to is there.

    With SIGTERM the platform's grace begins: SIGKILL follows. With SIGINT, Ctrl-C at a terminal,
    nothing follows, so the ranks get it one by one (`by_hand`), and all the time that they need
    to save. Ctrl-C again after `grace_s` means that this is too long.
    """

    def __init__(self, grace_s: float = math.inf) -> None:
        self.asked, self._grace_s, self._owner = False, grace_s, os.getpid()
        self._first_s, self._since_s = 0.0, math.inf
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def passes_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass the stop to `process`, now or later."""
        self._process = process
        if self.asked and not self.by_hand:
            process.terminate()

    @property
    def by_hand(self) -> bool:
        """True after Ctrl-C, as long as no SIGTERM came too."""
        return self.asked and self._since_s == math.inf

    def age_s(self) -> float:
        """Seconds of the platform's grace that are over; 0 where none began."""
        return max(0.0, time.monotonic() - self._since_s)

    def left_s(self, grace_s: float) -> float | None:
        """How much of the platform's grace is left, less what ending takes; None without a
        stop."""
        return max(0.0, grace_s - END_S - self.age_s()) if self.asked else None

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a child that is not another program yet; this one's owner is asked too
        name, now_s, again = signal.Signals(number).name, time.monotonic(), self.asked
        overdue = again and number == signal.SIGINT and now_s - self._first_s > self._grace_s
        if not again:
            self.asked, self._first_s = True, now_s
            _print(f"{name}: saving at the next step, then stopping (exit code 75)")
        else:
            _print(f"{name}: {'ending it now' if overdue else 'already stopping'}")
        if overdue:
            self._since_s = now_s - self._grace_s
        elif number == signal.SIGTERM and self._since_s == math.inf:
            self._since_s = now_s
            if self._process is not None:
                self._process.terminate()


def shutdown_s(grace_s: float) -> int:
    """How long ranks may take to stop, of the platform's grace: all but 4 s, at least 5 s."""
    return max(5, int(grace_s - RESERVED_S))


def _print(line: str) -> None:
    """Write to stderr past Python's buffers, which a signal may have interrupted."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
