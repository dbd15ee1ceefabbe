"""Speed and progress of a running job."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

from adapt.checkpoint.snapshot import Moment
from adapt.places import Place
from adapt.stream.observe import Observed
from adapt.tracking.trainjob_status import Status, TrainJobStatus
from adapt.trainer.budget import Bill

BAD_SAMPLES = "stream/bad_samples"
"""The metric that counts samples skipped by `stream.on_bad_sample: skip`, over all ranks."""

SUMS = (BAD_SAMPLES, *(f"stream/{name}" for name in ("stalls", "fetched_mb", "retries", "hedges")))
"""Metrics of the stream that are summed over ranks; the others are means."""


class JobProgress(NamedTuple):
    """The content of the live line.

    `wait_share` in [0, 1] is the time spent waiting for data; `stream` has the details, for this
    rank alone. `saved` is the last checkpoint that this process has stored. `mfu` in [0, 1] is the
    model FLOPs utilisation, None where it is not known, `bill` what the run has cost. `scores` are
    the metrics of this process's last evaluation.
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
    scores: Mapping[str, float] = MappingProxyType({})

    def status(self) -> Status:
        """The share that is done, the time left, and scores, losses and speed by their names in
        MLflow."""
        metrics = {f"validation/{name}": value for name, value in self.scores.items()}
        losses = {name.replace("/", "."): value for name, value in self.losses.items()}
        metrics |= {f"train/loss.{name}": value for name, value in losses.items()}
        metrics |= {"speed/samples_per_s": self.samples_per_s, **self.bill.metrics()}
        counts = {"step": self.step, "steps": self.steps}
        return Status(self.step / self.steps, self.remaining_s, {**counts, **metrics})


@contextmanager
def told(
    place: Place, on_progress: Callable[[JobProgress], None]
) -> Iterator[Callable[[JobProgress], None]]:
    """`on_progress`, which reports to the cluster too where this is the leader of a TrainJob: that
    all is done where the context ends without an exception."""
    server = place.trainer_server if place.leader else None
    if server is None:
        yield on_progress
        return
    posts, newest = TrainJobStatus(server), Status(1.0, 0.0, {})

    def tell(progress: JobProgress) -> None:
        nonlocal newest
        on_progress(progress)
        newest = progress.status()
        if newest.done < 1:
            posts.show(newest)

    try:
        yield tell
    except BaseException:
        posts.close()
        raise
    posts.close(newest._replace(done=1.0, remaining_s=0.0))


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
