"""The progress of a trial as its run folder has it: scores, the best checkpoint, the time taken.

Read from the newest checkpoint's history, not from MLflow: it is as old as the state beside it,
lies where the job saves, whatever platform trains, and is there while MLflow is unreachable.
"""

import json
from math import isfinite
from typing import NamedTuple

from adapt.checkpoint.lease import LEASE
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.saved import Best
from adapt.checkpoint.spent import Spent
from adapt.errors import DataError
from adapt.evaluation.protocol import EvaluateConfig
from adapt.report.history import VALIDATION, History
from storage.errors import MissingObject


class Progress(NamedTuple):
    """`scores` by step, `step` of the newest checkpoint, and the time of all sessions so far."""

    scores: dict[int, float]
    step: int = 0
    best: Best | None = None
    spent: Spent = Spent()

    @property
    def score(self) -> float | None:
        """The score of the checkpoint that counts."""
        return None if self.best is None else self.best.score


class Watched:
    """A trial's run folder, read again where its newest checkpoint is another one."""

    def __init__(self, folder: RunFolder, evaluate: EvaluateConfig) -> None:
        self._folder, self._name = folder, evaluate.score_metric
        self._newest, self._scores, self._step = "", dict[int, float](), 0

    def read(self) -> Progress:
        """The progress by now. A checkpoint that is damaged, or removed meanwhile, is read the next
        time. Raises `StoreError`."""
        try:
            newest = self._folder.store.get("LATEST").decode()
            if newest != self._newest:
                self._take(newest)
        except (MissingObject, DataError, ValueError):
            pass
        return Progress(dict(self._scores), self._step, self._folder.best(), self._spent())

    def _take(self, newest: str) -> None:
        history = History.parsed(self._folder.history_text(newest))
        rows = history.curves[VALIDATION].rows
        values = {step: row.get(self._name) for step, row in rows.items()}
        self._scores = {
            step: value for step, value in values.items() if value is not None and isfinite(value)
        }
        self._newest, self._step = newest, int(newest.split("-")[1])

    def _spent(self) -> Spent:
        """The time that the run's lease counts, also since the newest checkpoint."""
        try:
            values = json.loads(self._folder.store.get(LEASE))
        except (MissingObject, ValueError):
            return Spent()
        return Spent.read(values.get("spent")) if isinstance(values, dict) else Spent()
