"""Fetches the best checkpoint of a finished or running job, found through MLflow, and checks its
sha256."""

from pathlib import Path
from typing import Any, NamedTuple

from adapt.checkpoint.run_folder import SPEC, fetch_weights
from adapt.config.strict_yaml import parse_yaml
from adapt.errors import JobError, known_names
from adapt.models.weights import WEIGHTS
from adapt.places import Place
from adapt.spec.job_spec import JobSpec, parse_spec
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_errors import be_brief
from adapt.tracking.mlflow_run import JOB_TAG
from adapt.tracking.tracker import BEST_SHA256_TAG, BEST_URI_TAG
from storage.stores import Stores


class Downloaded(NamedTuple):
    """A downloaded best checkpoint: its files, its run, its score."""

    weights_path: Path
    spec_path: Path
    run_id: str
    run_name: str
    score: float
    sha256: str


def download_best(
    wanted: str,
    out: Path,
    tracking_uri: str,
    place: Place,
    metric: str = "miou",
    stores: Stores | None = None,
) -> Downloaded:
    """Write `weights.safetensors` and `spec.yaml` of the best checkpoint of `wanted` into `out`.

    `wanted` is a run's id or name, a submitted job, or an experiment, of which the run with the
    highest `metric` is taken. `stores` default to those of the run's own spec. Raises `JobError`
    where MLflow knows no such run, or several of that name, `StoreError`, `DataError`.
    """
    require_database(tracking_uri)
    be_brief()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri)
        run = _find(client, wanted, metric)
        job = _spec_of(client, run)
    except MlflowException as error:
        raise JobError(
            f"{tracking_uri}: expected an answer of MLflow, got: {error.message}"
        ) from error
    uri, sha256 = run.data.tags[BEST_URI_TAG], run.data.tags[BEST_SHA256_TAG]
    out.mkdir(parents=True, exist_ok=True)
    root, _, key = uri.rpartition("/")
    stores = stores or Stores(job.stores, place.environment)
    fetch_weights(stores.open(root), key, out / WEIGHTS, sha256)
    (out / SPEC).write_text(job.to_yaml())
    score = float(run.data.tags.get(f"best_checkpoint_{metric}", "nan"))
    return Downloaded(out / WEIGHTS, out / SPEC, run.info.run_id, run.info.run_name, score, sha256)


def _find(client: Any, wanted: str, metric: str) -> Any:
    experiments = client.search_experiments()
    ids = [experiment.experiment_id for experiment in experiments]
    named = [e.experiment_id for e in experiments if e.name == wanted]
    quoted = wanted.replace("'", "")
    by_id = client.search_runs(ids, f"attributes.run_id = '{quoted}'") if ids else []
    by_name = client.search_runs(ids, f"attributes.run_name = '{quoted}'") if ids else []
    by_job = client.search_runs(ids, f"tags.`{JOB_TAG}` = '{quoted}'") if ids else []
    runs = by_id or (client.search_runs(named, max_results=1000) if named else [])
    runs = runs or by_job or by_name
    if runs is by_name and len({run.info.experiment_id for run in runs}) > 1:
        listed = ", ".join(run.info.run_id for run in runs)
        raise JobError(
            f"{wanted}: expected a run of one name, got runs of several experiments",
            fix=f"name one by its id ({listed})",
        )
    if not runs:
        known = known_names(wanted, [experiment.name for experiment in experiments])
        raise JobError(f"{wanted}: expected a run id, a run name, a job or an experiment, {known}")
    scored = [run for run in runs if BEST_URI_TAG in run.data.tags]
    if not scored:
        raise JobError(
            f"{wanted}: expected a run with a best checkpoint, got none",
            fix="wait for the first evaluation, which marks one",
        )
    return max(
        scored, key=lambda run: float(run.data.tags.get(f"best_checkpoint_{metric}", "-inf"))
    )


def _spec_of(client: Any, run: Any) -> JobSpec:
    path = Path(client.download_artifacts(run.info.run_id, SPEC))
    return parse_spec(parse_yaml(path.read_text(), "the run's spec.yaml"), run.info.run_name)
