"""MLflow's registry: a version of the registered model for a run's best checkpoint."""

from collections.abc import Mapping

from adapt.tracking.mlflow_errors import code_of
from adapt.tracking.mlflow_run import BEST_CHOSEN_BY_TAG, BEST_URI_TAG, MlflowRun
from adapt.tracking.names import legal_name

BEST_ALIAS = "best"


def register_best(run: MlflowRun, name: str) -> None:
    """Make a version of the model `name`, unless the run has no best checkpoint or this one is
    registered already. The version gets the alias `best` where no other one scored more."""
    tags = run.tags()
    if BEST_URI_TAG not in tags:
        return
    _make_registered_model(run, name)
    versions = run.client.search_model_versions(f"run_id = '{run.id}'")
    if any(v.name == name and v.source == tags[BEST_URI_TAG] for v in versions):
        return
    facts = {key: value for key, value in tags.items() if key.startswith("best_checkpoint_")}
    version = run.client.create_model_version(
        name, tags[BEST_URI_TAG], run_id=run.id, tags=facts, await_creation_for=0
    )
    if _beats_best(run, name, facts):
        run.client.set_registered_model_alias(name, BEST_ALIAS, str(version.version))


def _make_registered_model(run: MlflowRun, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if code_of(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _beats_best(run: MlflowRun, name: str, facts: Mapping[str, str]) -> bool:
    """Return whether the version with the alias scored less, or has no such score."""
    aliases = run.client.get_registered_model(name).aliases
    if BEST_ALIAS not in aliases:
        return True
    best = run.client.get_model_version(name, str(aliases[BEST_ALIAS])).tags
    score = legal_name(f"best_checkpoint_{facts.get(BEST_CHOSEN_BY_TAG)}")
    return score not in best or not float(facts[score]) <= float(best[score])  # NaN counts least
