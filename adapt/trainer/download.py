"""Fetches the best checkpoint of a finished or running job, found through MLflow, and checks its
sha256."""

from pathlib import Path
from typing import NamedTuple

from adapt.checkpoint.files import fetch_weights
from adapt.checkpoint.run_folder import SPEC
from adapt.models.weights import WEIGHTS
from adapt.places import Place
from adapt.tracking.mlflow_run import (
    BEST_CHOSEN_BY_TAG,
    BEST_PROTOCOL_TAG,
    BEST_SHA256_TAG,
    BEST_URI_TAG,
    BEST_WEIGHTS_TAG,
)
from adapt.trainer.found_run import find_run, score_tag
from storage.files import file_errors
from storage.stores import Stores


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
    metric: str | None = None,
    stores: Stores | None = None,
) -> Downloaded:
    """Write `weights.safetensors` and `spec.yaml` of the best checkpoint of `wanted` into `out`.

    `wanted` is what `find_run` takes: a run, an experiment, of which the run with the best `metric`
    is taken, a submitted job, or a registered model. `stores` default to those of the
    run's own spec. Raises `JobError` where MLflow knows no such run, or several of that name,
    `StoreError`, `DataError`. MLflow and the store are asked again where they fail in passing.
    """
    found = find_run(wanted, tracking_uri, metric)
    job, tags = found.job, found.tags
    uri, sha256 = tags[BEST_URI_TAG], tags[BEST_SHA256_TAG]
    root, _, key = uri.rpartition("/")
    stores = stores or Stores(job.stores, place.environment)
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    fetch_weights(stores.open(root), key, out / WEIGHTS, sha256)
    with file_errors(out / SPEC):
        (out / SPEC).write_text(job.to_yaml())
    chosen_by = tags.get(BEST_CHOSEN_BY_TAG, job.evaluate.score)
    by = metric if metric is not None and score_tag(metric) in tags else chosen_by
    return Downloaded(
        out / WEIGHTS,
        out / SPEC,
        found.run_id,
        found.name,
        float(tags.get(score_tag(by), "nan")),
        sha256,
        by,
        tags.get(BEST_PROTOCOL_TAG, job.evaluate.protocol),
        tags.get(BEST_WEIGHTS_TAG, job.evaluate.weights),
        chosen_by,
    )
