"""The runs in MLflow that used a packed split, by the fingerprint that each run is tagged with."""

from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

PREFIX = "segadapt."
_PAGE = 1000


class DataRun(NamedTuple):
    """A run that used a split under the key `role` of its spec: source, target, validation."""

    dataset_id: str
    role: str
    run_id: str
    name: str
    experiment: str
    status: str
    started_ms: int


def runs_of_data(tracking_uri: str, ids: set[str]) -> list[DataRun]:
    """Every run that was tagged with one of these fingerprints, oldest first."""
    client = MlflowClient(tracking_uri)
    experiments = {one.experiment_id: one.name for one in client.search_experiments()}
    found, token = [], None
    while experiments:
        page = client.search_runs(list(experiments), max_results=_PAGE, page_token=token)
        for run in page:
            found += _uses(run, experiments[run.info.experiment_id], ids)
        token = page.token
        if not token:
            break
    return sorted(found, key=lambda one: (one.started_ms, one.run_id, one.role))


def _uses(run: Run, experiment: str, ids: set[str]) -> list[DataRun]:
    tags = {key: value for key, value in run.data.tags.items() if key.startswith(PREFIX)}
    return [
        DataRun(
            value,
            key.removeprefix(PREFIX),
            run.info.run_id,
            run.info.run_name,
            experiment,
            run.info.status,
            run.info.start_time,
        )
        for key, value in tags.items()
        if value in ids
    ]
