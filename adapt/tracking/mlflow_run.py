"""One run in MLflow: found by its id or by the job's key, else created.

MLflow is imported where it is used: that costs seconds, and only the leader's process needs it.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from adapt.tracking.mlflow_database import embedded_folder, make_database
from adapt.tracking.mlflow_errors import REFUSALS, code_of
from adapt.tracking.spool import Entry
from storage.uris import without_user

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

log = logging.getLogger(__name__)

KIND_TAG, TRAINING_KIND = "mlflow.experimentKind", "custom_model_development"
"""MLflow 3 opens an experiment without a kind on its page for generative AI."""
_MAX_NAME_CHARS = 250
SETTLE_S = 120.0
"""The last requests of a process that was killed reach MLflow within so long: its client's own
limit for a request."""
JOB_KEY_TAG = "segadapt.job_key"
JOB_TAG = "segadapt.job"
"""The submitted job that trained last."""
PARENT_TAG = "mlflow.parentRunId"
"""The run below which MLflow lists a run."""
BEST_URI_TAG = "best_checkpoint_uri"
BEST_SHA256_TAG = "best_checkpoint_sha256"
BEST_CHOSEN_BY_TAG = "best_checkpoint_chosen_by"
BEST_PROTOCOL_TAG = "best_checkpoint_protocol"
BEST_WEIGHTS_TAG = "best_checkpoint_weights"


def page(experiment_id: str, run_id: str | None = None) -> str:
    """The path of an experiment's runs, or of one run: without its end MLflow 3.17 shows the page
    for generative AI, whatever kind the experiment is of."""
    run = "" if run_id is None else f"/runs/{run_id}"
    return f"#/experiments/{experiment_id}{run}?workflowType=machine_learning"


class MlflowRun:
    """The job's run on the server at `uri`. Every method may raise what `failures()` lists.

    start: the spool's `start` entry, with the run's name and the job's key. run_ids: the runs that
    this job is known to have had, most trusted first. warn: called with messages for the log. late:
    the job has ended, and may have resumed elsewhere: what the run has become since an entry was
    written is left as it is.
    """

    def __init__(
        self,
        experiment: str,
        uri: str,
        start: Entry,
        run_ids: tuple[str | None, ...],
        warn: Callable[[str], None],
        *,
        late: bool = False,
    ) -> None:
        self.run_id: str | None = None
        self._experiment = experiment
        self._uri = uri
        self._start = start
        self._known_run_ids = run_ids
        self.warn = warn
        self._late = late
        self.lacks_models = False
        self._ended_ms, self._kept = 0, False
        self._created = False
        self.experiment_id = ""
        self.params: dict[str, str] = {}
        self._steps: dict[str, set[int]] = {}
        self._attached_s = 0.0
        self._own_client: MlflowClient | None = None

    def reopen(self) -> None:
        """Forget the run and open the database again, whose file was replaced."""
        if self._own_client is not None:
            self._own_client._tracking_client.store.engine.dispose()
        self._own_client, self.run_id, self._steps = None, None, {}

    def touch(self) -> None:
        """Read the run; raises where the server fails."""
        self.client.get_run(self.id)

    def attach(self, start_time_ms: int) -> str:
        """Find the job's run, or make it; set it to RUNNING. Returns its id."""
        if self.run_id is not None:
            return self.run_id
        experiment_id = self._experiment_id()
        run = self._known_run() or self._tagged_run(experiment_id)
        self._created = run is None
        if run is None:
            run = self.client.create_run(
                experiment_id,
                start_time=start_time_ms,
                tags={**self._start.get("first_tags", {}), JOB_KEY_TAG: self._start["job_key"]},
                run_name=self._start["run_name"][:_MAX_NAME_CHARS],
            )
        self._kept = not self._start.get("begun", True) and run.info.status == "FINISHED"
        if not (self._created or self._late or self._kept):
            self.client.update_run(run.info.run_id, status="RUNNING")
        self.experiment_id = str(run.info.experiment_id)
        self._ended_ms = run.info.end_time or 0
        self.params = dict(run.data.params)
        self.run_id, self._attached_s = str(run.info.run_id), time.monotonic()
        return self.run_id

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client of this URI; for a database file it makes the tables."""
        if self._own_client is None:
            from mlflow import MlflowClient

            if embedded_folder(self._uri) is not None:
                make_database(self._uri)
            self._own_client = MlflowClient(tracking_uri=self._uri)
        return self._own_client

    @property
    def id(self) -> str:
        """The run's id, after `attach`."""
        assert self.run_id is not None, "attached before anything is sent"
        return self.run_id

    @property
    def page(self) -> str | None:
        """The run's page on a server, after `attach`; None for a database file."""
        if not self._uri.startswith("http"):
            return None
        server = without_user(self._uri).rstrip("/")
        return f"{server}/{page(self.experiment_id, self.id)}"

    def _experiment_id(self) -> str:
        name = self._experiment
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            self._mark_kind(experiment)
            return str(experiment.experiment_id)
        folder = embedded_folder(self._uri)
        location = None if folder is None else (folder / "mlartifacts").as_uri()
        tags = {KIND_TAG: TRAINING_KIND}
        return str(self.client.create_experiment(name, artifact_location=location, tags=tags))

    def _mark_kind(self, experiment: "Experiment") -> None:
        """Have MLflow's pages open on the runs, unless the experiment has a kind already."""
        from mlflow.exceptions import MlflowException

        if KIND_TAG in experiment.tags:
            return
        try:
            self.client.set_experiment_tag(experiment.experiment_id, KIND_TAG, TRAINING_KIND)
        except MlflowException as error:  # as for a user who may add runs alone
            log.debug("experiment %s: %s", self._experiment, error)

    def _known_run(self) -> "Run | None":
        from mlflow.exceptions import MlflowException

        for run_id in self._known_run_ids:
            try:
                run = None if run_id is None else self.client.get_run(run_id)
            except MlflowException as error:
                if code_of(error) not in REFUSALS:
                    raise
                self.warn(f"MLflow does not know the run {run_id} of this job any more")
                continue
            if run is not None and run.info.lifecycle_stage == "active":
                return run
        return None

    def _tagged_run(self, experiment_id: str) -> "Run | None":
        query = f"tags.`{JOB_KEY_TAG}` = '{self._start['job_key']}'"
        found = self.client.search_runs([experiment_id], query, max_results=1)
        return found[0] if found else None

    def tags(self) -> dict[str, str]:
        """The run's tags as the server has them now."""
        return dict(self.client.get_run(self.id).data.tags)

    def steps_of(self, key: str) -> set[int]:
        """The steps at which the server has this metric; read once, where the run is not new."""
        if key not in self._steps:
            self._steps[key] = set() if self._created else self._read_steps(key)
        return self._steps[key]

    def _read_steps(self, key: str) -> set[int]:
        return {point.step for point in self.client.get_metric_history(self.id, key)}

    def notice_others(self, key: str) -> None:
        """Read all histories again where another process has meanwhile sent this metric: one that
        was killed, or is ending, may still have had requests on their way."""
        settled = self._created or time.monotonic() > self._attached_s + SETTLE_S
        if not settled and key in self._steps and self._read_steps(key) - self._steps[key]:
            self._steps = {}

    def is_past(self, entry: Entry) -> bool:
        """Return whether the run has ended since this entry was written, in a later start
        elsewhere, or had ended well before a start that did not continue it."""
        return self._kept or (self._late and bool(entry["time_ms"] < self._ended_ms))
