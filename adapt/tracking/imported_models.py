"""A network from elsewhere in MLflow's registry: a run that holds its LoggedModel, and a version.

The run's key is the network's name and sha256, so the same file is registered once; at another URI
it is a version and a LoggedModel of its own, beside the first.
"""

import hashlib
import logging
import time

from adapt.config.validation import validate
from adapt.tracking.config import TrackingConfig
from adapt.tracking.logged_models import TrackedModel, add_model
from adapt.tracking.mlflow_run import BEST_SHA256_TAG, BEST_URI_TAG, MlflowRun
from adapt.tracking.registry import register_best

log = logging.getLogger(__name__)

EXPERIMENT = "imported-models"


def check_model_name(name: str, key: str) -> None:
    """Raise `JobError` for a name that no registered model can have."""
    values = {"register_as": name}
    validate(TrackingConfig, values, key)


def register_import(model: TrackedModel, name: str, tracking_uri: str) -> str:
    """Register an imported network as a version of the model `name`; the version's number.

    The version gets the alias `best` only where the model has none, since it has no score. Raises
    what MLflow's client does (`adapt.tracking.mlflow_errors.failures`).
    """
    start = {"run_name": name, "job_key": f"import/{name}/{model.sha256}"}
    run = MlflowRun(EXPERIMENT, tracking_uri, start, (), log.warning)
    run.attach(int(time.time() * 1000))
    for tag, value in {BEST_URI_TAG: model.uri, BEST_SHA256_TAG: model.sha256}.items():
        run.client.set_tag(run.id, tag, value)
    place = hashlib.sha256(model.uri.encode()).hexdigest()[:8]
    add_model(run, model._replace(name=f"{model.name}-{place}"))
    version = register_best(run, name)
    run.client.set_terminated(run.id, "FINISHED")
    assert version is not None, "the run has the tags"
    return version
