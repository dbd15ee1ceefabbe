"""The contract of what trains trials: this machine (`local`) or a platform (`submitted`)."""

from collections.abc import MutableMapping
from typing import Any, Literal, NamedTuple, Protocol

from adapt.checkpoint.run_folder import RunFolder
from adapt.spec.job_spec import JobSpec


class Ending(NamedTuple):
    """How a trial's job ended; `why` is a short line."""

    state: Literal["done", "interrupted", "failed"]
    why: str = ""


class RunningTrial(Protocol):
    """A trial's job under way."""

    def ended(self) -> Ending | None:
        """How it ended; None while it trains."""

    def stop(self, urgent: bool = False, /) -> None:
        """Ask it to save and to end; `urgent` where this process will be killed soon."""


class Runner(Protocol):
    """Trains the jobs of trials; `slots` at the same time, asked about every `poll_s`."""

    slots: int
    poll_s: float

    def start(self, job: JobSpec, slot: int, notes: MutableMapping[str, Any], /) -> RunningTrial:
        """Start a job, or find the one that an earlier start of the sweep has left. `notes` are
        kept with the trial. Raises `JobError`, `StoreError`."""

    def folder(self, job: JobSpec) -> RunFolder:
        """The run's folder as this machine reaches it."""
