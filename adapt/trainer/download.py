"""Fetches the best checkpoint of a finished or running job, found through MLflow, and checks its
sha256."""

import errno
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NamedTuple

from adapt.checkpoint.files import fetch_weights
from adapt.checkpoint.run_folder import SPEC
from adapt.config.strict_yaml import parse_yaml
from adapt.errors import MAX_SHOWN, JobError, got
from adapt.models.weights import WEIGHTS
from adapt.places import Place
from adapt.spec.job_spec import JobSpec, parse_spec
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_errors import REFUSALS, be_brief, code_of, failures, first_line, fix_of
from adapt.tracking.mlflow_run import JOB_TAG
from adapt.tracking.names import legal_name
from adapt.tracking.tracker import (
    BEST_CHOSEN_BY_TAG,
    BEST_PROTOCOL_TAG,
    BEST_SHA256_TAG,
    BEST_URI_TAG,
    BEST_WEIGHTS_TAG,
)
from storage.errors import StoreError
from storage.files import file_errors
from storage.retry import Retry
from storage.stores import Stores
from storage.uris import without_password

_SEARCHED = 1000
"""The newest runs, among whose names a mistyped one is searched."""


class Downloaded(NamedTuple):
    """A downloaded best checkpoint: its files, its run, its score by the metric that was asked for,
    or by `chosen_by` where the run has no such.

    `protocol`, `weights` and `chosen_by` say how the run chose it.
    """

    weights_path: Path
    spec_path: Path
    run_id: str
    run_name: str
    score: float
    sha256: str
    metric: str
    protocol: str
    weights: str
    chosen_by: str


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
    where MLflow knows no such run, or several of that name, `StoreError`, `DataError`. MLflow and
    the store are asked again where they fail in passing.
    """
    require_database(tracking_uri)
    be_brief()
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri)
        retry = Retry(3, on=failures(), transient=_may_pass)
        run, job = retry.call(lambda: _found(client, wanted, metric, tracking_uri))
    except failures() as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise StoreError(f"{gettempdir()}: the disk is full", "free space there") from error
        raise JobError(
            f"{without_password(tracking_uri)}: expected an answer of MLflow, got: "
            f"{first_line(error)}",
            fix_of(error),
        ) from error
    uri, sha256 = run.data.tags[BEST_URI_TAG], run.data.tags[BEST_SHA256_TAG]
    root, _, key = uri.rpartition("/")
    stores = stores or Stores(job.stores, place.environment)
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    fetch_weights(stores.open(root), key, out / WEIGHTS, sha256)
    with file_errors(out / SPEC):
        (out / SPEC).write_text(job.to_yaml())
    tags = run.data.tags
    chosen_by = tags.get(BEST_CHOSEN_BY_TAG, job.evaluate.score)
    by = metric if _score_tag(metric) in tags else chosen_by
    return Downloaded(
        out / WEIGHTS,
        out / SPEC,
        run.info.run_id,
        run.info.run_name,
        float(tags.get(_score_tag(by), "nan")),
        sha256,
        by,
        tags.get(BEST_PROTOCOL_TAG, job.evaluate.protocol),
        tags.get(BEST_WEIGHTS_TAG, job.evaluate.weights),
        chosen_by,
    )


def _may_pass(error: Exception) -> bool:
    """Return whether MLflow may answer when it is asked again."""
    return code_of(error) not in REFUSALS and getattr(error, "errno", None) != errno.ENOSPC


def _found(client: Any, wanted: str, metric: str, tracking_uri: str) -> tuple[Any, JobSpec]:
    """The run with the wanted best checkpoint, and its job spec."""
    run = _find(client, wanted, metric, tracking_uri)
    return run, _spec_of(client, run)


def _find(client: Any, wanted: str, metric: str, tracking_uri: str) -> Any:
    experiments = client.search_experiments()
    ids = [experiment.experiment_id for experiment in experiments]
    named = [e.experiment_id for e in experiments if e.name == wanted]
    quoted = f'"{wanted}"' if "'" in wanted else f"'{wanted}'"
    by_id = client.search_runs(ids, f"attributes.run_id = {quoted}") if ids else []
    by_name = client.search_runs(ids, f"attributes.run_name = {quoted}") if ids else []
    by_job = client.search_runs(ids, f"tags.`{JOB_TAG}` = {quoted}") if ids else []
    runs = by_id or (client.search_runs(named, max_results=1000) if named else [])
    runs = runs or by_job or by_name
    if runs is by_name and len({run.info.experiment_id for run in runs}) > 1:
        listed = ", ".join(run.info.run_id for run in runs)
        raise JobError(
            f"{wanted}: expected a run of one name, got runs of several experiments",
            fix=f"name one by its id ({listed})",
        )
    if not runs:
        raise _unknown(client, wanted, experiments, without_password(tracking_uri))
    scored = [run for run in runs if BEST_URI_TAG in run.data.tags]
    if not scored:
        raise JobError(
            f"{wanted}: expected a run with a best checkpoint, got none",
            fix="wait for the first evaluation, which marks one",
        )
    return max(scored, key=lambda run: _score(run, metric))


def _score_tag(metric: str) -> str:
    return legal_name(f"best_checkpoint_{metric}")


def _score(run: Any, metric: str) -> float:
    """A run's score; a run without a number counts least."""
    score = float(run.data.tags.get(_score_tag(metric), "-inf"))
    return score if score == score else -math.inf


def _unknown(client: Any, wanted: str, experiments: Sequence[Any], server: str) -> JobError:
    """The error that lists what there is: experiments, and the newest runs with their jobs."""
    ids = [experiment.experiment_id for experiment in experiments]
    runs = client.search_runs(ids, max_results=_SEARCHED) if ids else []
    names = {
        "experiments": [experiment.name for experiment in experiments],
        "runs": [run.info.run_name for run in runs],
        "jobs": [run.data.tags[JOB_TAG] for run in runs if JOB_TAG in run.data.tags],
    }
    known = [name for kind in names.values() for name in kind]
    listed = [f"{kind}: {_first(kept)}" for kind, kept in names.items() if kept]
    return JobError(
        f"{wanted}: expected a run id, a run name, a job or an experiment of MLflow at {server}, "
        f"{got(wanted, known)} ({'; '.join(listed)})",
        "name one of them, or another server with --tracking-uri",
    )


def _first(names: Sequence[str]) -> str:
    """The first few names, each once."""
    once = list(dict.fromkeys(names))
    more = f" and {len(once) - MAX_SHOWN} more" if len(once) > MAX_SHOWN else ""
    return ", ".join(once[:MAX_SHOWN]) + more


def _spec_of(client: Any, run: Any) -> JobSpec:
    with TemporaryDirectory(prefix="segadapt-spec-") as folder:
        path = Path(client.download_artifacts(run.info.run_id, SPEC, folder))
        return parse_spec(parse_yaml(path.read_text(), "the run's spec.yaml"), run.info.run_name)
