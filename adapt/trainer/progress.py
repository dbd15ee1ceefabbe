"""Speed and progress of a running job."""

import time
from typing import NamedTuple

from adapt.checkpoint.snapshot import Moment
from adapt.stream.observe import Observed
from adapt.trainer.budget import Bill

BAD_SAMPLES = "stream/bad_samples"
"""The metric that counts samples skipped by `stream.on_bad_sample: skip`, over all ranks."""

SUMS = (BAD_SAMPLES, *(f"stream/{name}" for name in ("stalls", "fetched_mb", "retries", "hedges")))
"""Metrics of the stream that are summed over ranks; the others are means."""


class JobProgress(NamedTuple):
    """The content of the live line.

    `wait_share` in [0, 1] is the time spent waiting for data; `stream` has the details, for this
    rank alone. `saved` is the last checkpoint that this process has stored. `mfu` in [0, 1] is the
    model FLOPs utilisation, None where it is not known, `bill` what the run has cost.
    """

    step: int
    steps: int
    losses: dict[str, float]
    samples_per_s: float
    wait_share: float
    remaining_s: float
    stream: Observed
    saved: Moment | None
    mfu: float | None = None
    bill: Bill = Bill()


class Stretch:
    """Speed since a step: seconds, seconds a step, samples a second, share of time waiting for
    data."""

    def __init__(self, step: int = 0, wait_s: float = 0.0) -> None:
        self._step, self._wait_s, self._start_s = step, wait_s, time.perf_counter()
        self.spent_s = self.step_s = self.samples_per_s = self.wait_share = 0.0

    def measure(self, step: int, samples: int, wait_s: float) -> "Stretch":
        now_s = time.perf_counter()
        self.spent_s = spent_s = max(now_s - self._start_s, 1e-9)
        self.step_s = spent_s / max(step - self._step, 1)
        self.samples_per_s = samples / self.step_s
        self.wait_share = min(1.0, (wait_s - self._wait_s) / spent_s)
        self._step, self._wait_s, self._start_s = step, wait_s, now_s
        return self
