"""MLflow's registry: a version of the registered model for a run's best checkpoint.

Its source is the folder of the checkpoint's LoggedModel, by which `mlflow.pyfunc` loads it. A
server of MLflow 2 has none: there the source is the URI of the weights, as `adapt.load` takes it,
or the folder of the run's artifacts, where the weights are a file.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from adapt.evaluation.protocol import AGREEMENT, sign
from adapt.tracking.logged_models import model_of
from adapt.tracking.mlflow_errors import code_of
from adapt.tracking.mlflow_run import BEST_CHOSEN_BY_TAG, BEST_URI_TAG, MlflowRun
from adapt.tracking.names import legal_name
from storage.uris import split_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

BEST_ALIAS = "best"
VERSION = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")


def register_best(run: MlflowRun, name: str) -> str | None:
    """Make a version of the model `name`, unless the run has no best checkpoint or this one is
    registered already; its number. It gets the alias `best` where no other one scored more."""
    tags = run.tags()
    if BEST_URI_TAG not in tags:
        return None
    _make_registered_model(run, name)
    facts = {key: value for key, value in tags.items() if key.startswith("best_checkpoint_")}
    version = _version_of(run, name, tags[BEST_URI_TAG]) or _make_version(run, name, facts)
    if _beats_best(run, name, facts):
        run.client.set_registered_model_alias(name, BEST_ALIAS, str(version.version))
    return str(version.version)


def _version_of(run: MlflowRun, name: str, uri: str) -> "ModelVersion | None":
    """The version that an earlier delivery made of these weights."""
    versions = run.client.search_model_versions(f"run_id = '{run.id}'")
    return next((v for v in versions if v.name == name and v.tags.get(BEST_URI_TAG) == uri), None)


def _make_version(run: MlflowRun, name: str, facts: Mapping[str, str]) -> "ModelVersion":
    uri, model = facts[BEST_URI_TAG], model_of(run, facts[BEST_URI_TAG])
    source = _old_source(run, uri) if model is None else model.artifact_location
    model_id = None if model is None else model.model_id
    shown = {} if model is None else model.tags
    tags = {**facts, **{key: shown[key] for key in shown if key.startswith("segadapt.")}}
    return run.client.create_model_version(
        name, source, run_id=run.id, tags=tags, await_creation_for=0, model_id=model_id
    )


def _old_source(run: MlflowRun, uri: str) -> str:
    """The source of a version on a server of MLflow 2, which takes no path of a machine: there the
    folder of the run's artifacts; the version's tags name the weights."""
    if split_uri(uri)[0] != "file":
        return uri
    return str(run.client.get_run(run.id).info.artifact_uri)


def _make_registered_model(run: MlflowRun, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if code_of(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _beats_best(run: MlflowRun, name: str, facts: Mapping[str, str]) -> bool:
    """Return whether the version with the alias scored less, or has no such score; the newest wins
    where scores compare within a run alone. What has no score itself, as an imported network, does
    not."""
    aliases = run.client.get_registered_model(name).aliases
    if BEST_ALIAS not in aliases:
        return True
    if BEST_CHOSEN_BY_TAG not in facts:
        return False
    best = run.client.get_model_version(name, str(aliases[BEST_ALIAS])).tags
    by = facts[BEST_CHOSEN_BY_TAG]
    score = legal_name(f"best_checkpoint_{by}")
    if score not in best or by == AGREEMENT:
        return True
    return not sign(by) * float(facts[score]) <= sign(by) * float(best[score])  # NaN counts least
