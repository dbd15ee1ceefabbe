"""The cost of a running job so far, and its limit `train.max_cost`.

Time counts from the start of the ranks of each session to its end, whether it was stopped or
killed: a killed one until its last sign in `WRITER.json`, a few seconds before. What a platform
bills before and after, such as the pull of the image, is not known here.
"""

from typing import NamedTuple

from adapt.errors import JobError
from adapt.ranks import share_text
from adapt.report.history import History
from adapt.spec.job_spec import JobSpec


class Bill(NamedTuple):
    """GPU-hours so far, and the cost in `currency`; None where no price is known."""

    gpu_hours: float = 0.0
    cost: float | None = None
    currency: str = ""

    def metrics(self) -> dict[str, float]:
        """Those that are known, by their names in MLflow."""
        found = {"spent/gpu_hours": self.gpu_hours or None, "spent/cost": self.cost}
        return {name: value for name, value in found.items() if value is not None}


class Budget:
    """The cost of a job, by its `history`, which the leader alone has."""

    def __init__(self, job: JobSpec, history: History | None) -> None:
        self._history, self._limit = history, job.train.max_cost
        self._price, self._currency = job.report.price_per_hour, job.report.currency

    def bill(self) -> Bill:
        """The GPU-hours and the cost until now."""
        if self._history is None:
            return Bill()
        spent = self._history.spent()
        cost = None if self._price is None else spent.cost(self._price)
        return Bill(spent.gpu_hours, cost, self._currency)

    def used_up(self) -> bool:
        """True on the leader where `train.max_cost` is reached."""
        if self._limit is None or self._history is None:
            return False
        cost = self.bill().cost
        return cost is not None and cost >= self._limit

    def how(self) -> str:
        """The beginning of the message of a job that ends for its cost."""
        cost = self.bill().cost
        spent = "" if cost is None else f"{cost:.2f} {self._currency} are spent, "
        return f"{spent}train.max_cost is {self._limit:g} (raise it to continue): stopped at"

    def refuse_used_up(self) -> None:
        """Raise `JobError` on all ranks where the sessions before this one have left nothing: with
        75 a platform would restart the job for nothing."""
        if self._limit is None:
            return
        found = None
        if self._history is not None and self._price is not None:
            cost = self._history.spent_before().cost(self._price)
            found = f"{cost:.2f} {self._currency}" if cost >= self._limit else None
        spent = share_text(found)
        if spent is not None:
            raise JobError(
                f"train.max_cost: expected more than the {spent} that the run has cost already, "
                f"got {self._limit:g}",
                fix="raise it (--max-cost) to continue",
            )
