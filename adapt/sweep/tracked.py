"""A sweep in MLflow: one run, below which MLflow lists the runs of the trials."""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.sweep.live import outcome, spent_of
from adapt.sweep.space import Space
from adapt.sweep.trial_job import trial_name
from adapt.tracking.mlflow_database import embedded_folder
from adapt.tracking.mlflow_errors import be_brief, failures, first_line
from adapt.tracking.mlflow_run import PARENT_TAG
from adapt.tracking.tracker import Status, Tracker

log = logging.getLogger(__name__)

BEST_TAG, STATE_TAG = "segadapt.sweep_best", "segadapt.sweep_trial"
"""Tags of a trial's run: that it is the best, and its result."""
ATTACH_S, FLUSH_S = 60.0, 60.0
EMBEDDED_S = 300.0
"""On a loaded machine MLflow's import and a new database file take minutes."""
_POLL_S = 0.1


class SweepRun:
    """The sweep's run at `uri`; without one, as where the trials' MLflow is not reached from here,
    nothing is tracked."""

    def __init__(
        self, job: JobSpec, name: str, study_uri: str, space: Space, uri: str | None, place: Place
    ) -> None:
        self._uri, self._experiment, self._name = uri, job.tracking.experiment, name
        self._tracker: Tracker | None = None
        embedded = uri is not None and embedded_folder(uri) is not None
        self._wait_s, self._flush_s = (EMBEDDED_S if embedded else ATTACH_S), FLUSH_S
        if uri is None:
            return
        key = hashlib.sha256(f"{study_uri} {name}".encode()).hexdigest()[:32]
        keys = ", ".join(space.written)
        description = f"A sweep of `{job.name}` over {keys}, by {job.evaluate.score}."
        self._tracker = Tracker(
            job.tracking.model_copy(update={"register_as": None}),
            uri=uri,
            run_name=name,
            job_key=f"sweep/{key}",
            spool_dir=place.scratch_dir / "tracking",
            first_tags={"mlflow.note.content": description, "mlflow.source.type": "LOCAL"},
        )
        self._tracker.log_params({one.name: one.text() for one in space.dimensions})

    def parent_run(self) -> str | None:
        """The run's id; None while MLflow is unreachable, for which it waits once."""
        if self._tracker is None:
            return None
        end_s = time.monotonic() + self._wait_s
        while self._tracker.run_id is None and time.monotonic() < end_s:
            time.sleep(_POLL_S)
        if self._tracker.run_id is None:
            log.warning("MLflow is unreachable: the trial's run is not listed below the sweep's")
            self._wait_s = 0.0
        return self._tracker.run_id

    def on_end(self, trial: FrozenTrial) -> None:
        """Log a trial's result."""
        if self._tracker is None or trial.value is None or trial.state != TrialState.COMPLETE:
            return
        values = {"sweep/score": trial.value, "sweep/hours": spent_of(trial).seconds / 3600}
        self._tracker.log_metrics(values, trial.number)

    def finish(
        self,
        status: Status,
        files: Mapping[str, str],
        trials: Iterable[FrozenTrial],
        best: FrozenTrial | None,
        base: str,
    ) -> None:
        """Log the files, end the run, and tag the trials' runs with their results."""
        if self._tracker is None or self._uri is None:
            return
        for name, text in files.items():
            self._tracker.log_text(text, name)
        if best is not None:
            score = {"sweep/best_score": best.value or 0.0}
            self._tracker.log_tags({BEST_TAG: trial_name(base, best.number)})
            self._tracker.log_metrics(score, best.number)
        run_id = self._tracker.run_id
        self._tracker.finish(status, self._flush_s)
        if run_id is not None:
            _tag_trials(self._uri, self._experiment, run_id, _tags(trials, best, base))


def _tags(
    trials: Iterable[FrozenTrial], best: FrozenTrial | None, base: str
) -> dict[str, dict[str, str]]:
    return {
        trial_name(base, one.number): {
            STATE_TAG: outcome(one),
            BEST_TAG: str(best is not None and one.number == best.number).lower(),
        }
        for one in trials
    }


def _tag_trials(
    uri: str, experiment: str, parent: str, tags: Mapping[str, Mapping[str, str]]
) -> None:
    """Tag the runs below the sweep's; where MLflow fails, a warning says so."""
    be_brief()
    from mlflow import MlflowClient

    try:
        client: Any = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        ids = [] if found is None else [found.experiment_id]
        runs = client.search_runs(ids, f"tags.`{PARENT_TAG}` = '{parent}'", max_results=1000)
        for run in runs:
            for tag, value in tags.get(run.info.run_name, {}).items():
                client.set_tag(run.info.run_id, tag, value)
    except failures() as error:
        log.warning("the trials' runs in MLflow are not tagged: %s", first_line(error))
