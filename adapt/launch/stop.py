"""A stop of the job: the first SIGTERM or SIGINT, passed on once, and the time left after it."""

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
    """From now on the first SIGTERM or SIGINT is passed on as one SIGTERM, whenever the process to
    pass it to is there; later ones change nothing."""

    def __init__(self) -> None:
        self.asked, self._asked_s = False, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def passes_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass the stop to `process`, now or later."""
        self._process = process
        if self.asked:
            process.terminate()

    def age_s(self) -> float:
        """Seconds since the stop was asked for; 0 where it was not."""
        return time.monotonic() - self._asked_s if self.asked else 0.0

    def left_s(self, grace_s: float) -> float | None:
        """How much of the platform's grace is left, less what ending takes; None without a
        stop."""
        return max(0.0, grace_s - END_S - self.age_s()) if self.asked else None

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked:
            _print(f"{name}: already stopping")
            return
        self.asked, self._asked_s = True, time.monotonic()
        _print(f"{name}: saving at the next step, then stopping (exit code 75)")
        if self._process is not None:
            self._process.terminate()


def shutdown_s(grace_s: float) -> int:
    """How long ranks may take to stop, of the platform's grace: all but 4 s, at least 5 s."""
    return max(5, int(grace_s - RESERVED_S))


def _print(line: str) -> None:
    """Write to stderr past Python's buffers, which a signal may have interrupted."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
