"""The history of a run: its metrics step by step, its sessions, and the evaluations to show.

It is a file of JSON lines in every checkpoint, so it is always as old as the state beside it: after
a kill the run continues with the history of the checkpoint that it resumes from, and no step is
there twice or missing. MLflow, which may be unreachable, is not asked.

    {"kind": "session", ...}      a start of the job: its machine, its data, the seconds it ran
    {"kind": "train", ...}        losses, rates and speed at a step; "validation": scores
    {"kind": "evaluation", ...}   confusion matrix and pictures, of the best and of the last one,
                                  and of those that may be the best next time
"""

import json
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from math import isfinite
from typing import Any

from adapt.checkpoint.spent import NOTHING, Spent
from adapt.report.entries import check_entry

TRAIN, VALIDATION = "train", "validation"
MAX_POINTS = 4000
"""Of a curve. Of a longer one every second point is kept, then every fourth."""
_DIGITS = 7
"""Of a metric, as many as float32 has."""


class Curve:
    """Rows by step, at most `MAX_POINTS`; the first is always kept. `seen` counts those that were
    added, one in `stride` of which is kept."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float | None]] = {}
        self.seen, self.stride = 0, 1

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row; one of the same step is replaced."""
        short = {name: _short(value) for name, value in values.items()}
        if step in self.rows:
            self.rows[step] = short
            return
        if self.seen % self.stride == 0:
            self.rows[step] = short
        self.seen += 1
        if len(self.rows) > MAX_POINTS:
            self.stride *= 2
            self.rows = dict(list(self.rows.items())[::2])


class History:
    """The history of a run, kept by the leader.

    `curves`: `train` and `validation`. `sessions`: facts of each start. `best`, `last`: the
    evaluation that counts and the latest, None before the first. `others`: earlier ones by step,
    that may count again.
    """

    def __init__(self) -> None:
        self.curves = {TRAIN: Curve(), VALIDATION: Curve()}
        self.sessions: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self.others: dict[int, dict[str, Any]] = {}
        self._began_s: float | None = None

    @classmethod
    def parsed(cls, text: str) -> "History":
        """The history of a checkpoint's file; "" is an empty one. Raises `ValueError` for a
        damaged file."""
        history = cls()
        try:
            for number, line in enumerate(text.splitlines(), 1):
                entry = json.loads(line)
                check_entry(entry, number)
                history._take(entry)
        except (KeyError, RecursionError) as error:
            raise ValueError(f"expected a line of a history, got {error!r}") from error
        return history

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry.pop("kind")
        if kind == "session":
            self.sessions.append(entry)
        elif kind == "evaluation":
            marks = entry.pop("marks")
            self.best = entry if "best" in marks else self.best
            self.last = entry if "last" in marks else self.last
            if not marks:
                self.others[int(entry["step"])] = entry
        elif kind == "curve":
            curve = self.curves[entry["name"]]
            curve.seen, curve.stride = int(entry["seen"]), int(entry["stride"])
        else:
            self.curves[kind].rows[int(entry["step"])] = entry["values"]

    def start_session(
        self,
        facts: Mapping[str, Any],
        step: int,
        began_s: float | None = None,
        before: Spent = NOTHING,
    ) -> None:
        """Note a start of the job, at `step` steps done; its seconds count from `began_s` of
        `time.monotonic()`, else from here. What the run had taken `before` and no checkpoint has,
        since its session was killed, is kept as `unsaved`."""
        unsaved = before.beyond(Spent.of(self.sessions))
        kept = {"unsaved": [round(one, 1) for one in unsaved]} if any(unsaved) else {}
        self.sessions.append({**facts, "step": step, "seconds": 0.0, **kept})
        self._began_s = time.monotonic() if began_s is None else began_s

    def spent(self) -> Spent:
        """The time of all sessions until now."""
        if self._began_s is not None:
            self.sessions[-1]["seconds"] = round(time.monotonic() - self._began_s, 1)
        return Spent.of(self.sessions)

    def spent_before(self) -> Spent:
        """The time of the sessions before this one."""
        return Spent.of([*self.sessions[:-1], {**self.sessions[-1], "seconds": 0.0}])

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Note the metrics of a step."""
        self.curves[kind].add(step, values)

    def log_evaluation(self, entry: Mapping[str, Any], rank: float) -> None:
        """Note an evaluation; of two the one of the higher `rank` counts, NaN never does."""
        self.last = {**entry, "rank": rank if isfinite(rank) else None}
        if isfinite(rank) and (self.best is None or rank > self.best["rank"]):
            self.best = self.last

    def choose(self, step: int, kept: Iterable[int], record: Mapping[str, float]) -> None:
        """Let the evaluation of a step count, which was logged before, with more scores for its
        `record`; those of the steps `kept` stay, since one of them may count next time."""
        known = [*self.others.values(), self.best, self.last]
        by_step = {one["step"]: one for one in known if one is not None}
        if step in by_step:
            self.best = by_step[step]
            self.best["record"] = {**self.best["record"], **record}
        shown = {one["step"] for one in (self.best, self.last) if one is not None}
        self.others = {one: by_step[one] for one in kept if one in by_step and one not in shown}

    def stop_early(self, why: str) -> None:
        """Note that the run is done before its last step."""
        self.sessions[-1]["stopped_early"] = why

    @property
    def stopped_early(self) -> str | None:
        """Why the run was done before its last step; None where it was not."""
        return self.sessions[-1].get("stopped_early") if self.sessions else None

    def text(self) -> str:
        """The file's content as of now."""
        self.spent()
        return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in self._entries())

    def _entries(self) -> Iterable[dict[str, Any]]:
        sessions = ({"kind": "session", **facts} for facts in self.sessions)
        return chain(sessions, self._of_curves(), self._evaluations())

    def _of_curves(self) -> Iterable[dict[str, Any]]:
        for name, curve in self.curves.items():
            yield {"kind": "curve", "name": name, "seen": curve.seen, "stride": curve.stride}
            for step, values in curve.rows.items():
                yield {"kind": name, "step": step, "values": values}

    def _evaluations(self) -> Iterable[dict[str, Any]]:
        for other in self.others.values():
            yield {"kind": "evaluation", "marks": [], **other}
        if self.best is not None and self.best is not self.last:
            yield {"kind": "evaluation", "marks": ["best"], **self.best}
        if self.last is not None:
            marks = ["best", "last"] if self.best is self.last else ["last"]
            yield {"kind": "evaluation", "marks": marks, **self.last}


def _short(value: float) -> float | None:
    """JSON has no NaN."""
    return float(f"{value:.{_DIGITS}g}") if isfinite(value) else None
