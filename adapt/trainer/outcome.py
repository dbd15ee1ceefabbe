"""The end of a job, as its callers get it."""

from typing import NamedTuple

from adapt.checkpoint.saved import Best


class Outcome(NamedTuple):
    """Steps done, best checkpoint, the last validation's metrics in [0, 1], the score that chose
    the best, and why it ended early, "" where it did not."""

    step: int
    best: Best | None
    metrics: dict[str, float]
    chosen_by: str
    stopped_early: str = ""
