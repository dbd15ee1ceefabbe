"""A run as its report shows it: job spec, history and what follows from both.

It is read from a checkpoint's folder alone: no data, no network, no MLflow.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from adapt.checkpoint.run_folder import HISTORY, RESTORE_HISTORY, RunFolder
from adapt.checkpoint.saved import step_of
from adapt.checkpoint.spent import Spent
from adapt.config.strict_yaml import parse_yaml
from adapt.config.validation import validate
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.errors import DataError, JobError
from adapt.evaluation.protocol import STUDENT, metric_name
from adapt.report.history import VALIDATION, History
from storage.errors import MissingObject
from storage.store import Store
from storage.uris import without_password


class RunRecord(NamedTuple):
    """`spec_text` is the resolved job spec, `spec` the same as plain data. `step` is the last that
    the history has, or the checkpoint's."""

    name: str
    uri: str
    spec_text: str
    spec: Mapping[str, Any]
    classes: LabelSpace
    history: History
    step: int

    @classmethod
    def of(cls, spec_text: str, history: History, uri: str, step: int = 0) -> "RunRecord":
        """The record of a resolved job spec and a history. Raises `JobError` for another file."""
        uri = without_password(uri)
        spec = parse_yaml(spec_text, f"{uri}: spec.yaml")
        if not isinstance(spec, dict) or not {"classes", "train", "name"} <= spec.keys():
            raise JobError(f"{uri}: expected the resolved spec of a run, got another file")
        named = spec["classes"]
        space = LABEL_SPACES.get(named) if isinstance(named, str) else None
        classes = space or validate(LabelSpace, named, f"{uri}: classes")
        steps = [step, *(step for curve in history.curves.values() for step in curve.rows)]
        return cls(str(spec["name"]), uri, spec_text, spec, classes, history, max(steps))

    @property
    def steps(self) -> int:
        """Steps of the whole job."""
        return int(self.spec["train"]["steps"])

    @property
    def network(self) -> str:
        """The network whose scores count: student or ema."""
        return str(self.spec.get("evaluate", {}).get("weights", STUDENT))

    @property
    def shown(self) -> Mapping[str, Any] | None:
        """The evaluation that counts, else the last; None without any."""
        return self.history.best or self.history.last

    @property
    def spent(self) -> Spent:
        """The time of all sessions. The last one, where it was killed and nothing resumed from its
        checkpoint, counts until that."""
        return Spent.of(self.history.sessions)

    def shown_iou(self) -> dict[str, float | None]:
        """IoU by class of the evaluation that counts; empty without labels."""
        shown = self.shown
        return {} if shown is None else dict(shown["record"].get("iou", {}))

    def first_iou(self) -> tuple[int, dict[str, float | None]]:
        """Step and IoU by class of the first evaluation in the history."""
        rows = self.history.curves[VALIDATION].rows
        if not rows:
            return 0, {}
        step = min(rows)
        prefix = metric_name(self.network, "iou/")
        found = {name: rows[step].get(f"{prefix}{name}") for name in self.classes.names}
        return step, found if any(value is not None for value in found.values()) else {}


def read_run(store: Store, uri: str | None = None) -> RunRecord:
    """A run from its folder: the newest checkpoint whose spec and history can be read.

    Raises `DataError` where there is none, `StoreError`.
    """
    folder, uri = RunFolder(store), without_password(uri or store.uri)
    damage: DataError | None = None
    reason = "there is none"
    for name in reversed(folder.names()):
        try:
            text = folder.history_text(name)
            history = _parsed(text, name)
            spec_text = folder.spec_text(name)
        except (DataError, MissingObject) as error:
            reason, fix = error.problem, error.fix
            where = "" if isinstance(error, MissingObject) else f"{uri}/"
            damage = damage or DataError(f"{where}{reason}", fix or RESTORE_HISTORY)
            continue
        if text:
            return RunRecord.of(spec_text, history, uri, step_of(name))
        reason = "they are of an older version"
        break
    raise damage or DataError(
        f"{uri}: expected a run's folder with a checkpoint that has a history, got none ({reason})",
        "name the folder of a run, RUN/ with step-00000500/ and others in it",
    )


def _parsed(text: str, name: str) -> History:
    """The history of a checkpoint. Raises `DataError` by its file's name."""
    try:
        return History.parsed(text)
    except ValueError as error:
        raise DataError(
            f"{name}/{HISTORY}: expected a run's history, got a damaged file: {error}",
            RESTORE_HISTORY,
        ) from error
