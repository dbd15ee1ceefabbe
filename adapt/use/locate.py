"""Where a trained network's weights are: a file, a checkpoint's folder, a run's, or a version of a
registered model."""

from collections.abc import Callable
from typing import Any

from adapt.checkpoint.located import Located as Located
from adapt.checkpoint.located import located as located
from adapt.errors import JobError, known_names
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_errors import REFUSALS, be_brief, code_of, failures, first_line, fix_of
from adapt.tracking.registry import VERSION
from adapt.tracking.tracker import BEST_SHA256_TAG, BEST_URI_TAG
from storage.stores import Stores
from storage.uris import without_password

REGISTERED = "models:/"


def registered(uri: str, tracking_uri: str) -> Located:
    """The checkpoint of a version of a registered model, `models:/NAME@ALIAS` or
    `models:/NAME/VERSION`, by MLflow's registry.

    Raises `JobError` where MLflow knows none, or one that is no checkpoint of ours.
    """
    match = VERSION.fullmatch(uri)
    if match is None:
        raise JobError(
            f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION, got another form",
            f"name the alias of the best: {uri.split('@')[0].rstrip('/')}@best",
        )
    name, alias, number = match["name"], match["alias"], match["number"]
    require_database(tracking_uri)
    be_brief()
    from mlflow import MlflowClient

    client = _asked(lambda: MlflowClient(tracking_uri), tracking_uri)
    if alias is None:
        version = _asked(lambda: client.get_model_version(name, number), tracking_uri)
    else:
        version = _asked(lambda: client.get_model_version_by_alias(name, alias), tracking_uri)
    if version is None:
        raise _unknown(client, uri, name, tracking_uri)
    source = version.tags.get(BEST_URI_TAG) or str(version.source)
    if source.startswith((REGISTERED, "runs:/", "mlflow-artifacts:")):
        raise JobError(
            f"{uri}: expected a version whose source is the URI of a checkpoint, got {source}",
            "name a version that tracking.register_as or import-model made, or the checkpoint; of "
            "another program's, import the file that `mlflow artifacts download` fetches",
        )
    return Located(source, version.tags.get(BEST_SHA256_TAG))


def model_at(where: str, stores: Stores, tracking_uri: str) -> Located:
    """The weights that a user names: of a version of a registered model by MLflow at
    `tracking_uri`, else as `located`, which states what is raised."""
    if not where.startswith(REGISTERED):
        return located(where, stores)
    version = registered(where, tracking_uri)
    file = located(version.uri, stores)
    return file if version.sha256 is None else Located(file.uri, version.sha256)


def _asked(ask: Callable[[], Any], tracking_uri: str) -> Any:
    """MLflow's answer; None for a model, a version or an alias that it does not have."""
    try:
        return ask()
    except failures() as error:
        if code_of(error) in REFUSALS:
            return None
        raise JobError(
            f"{without_password(tracking_uri)}: expected an answer of MLflow, got: "
            f"{first_line(error)}",
            fix_of(error),
        ) from error


def _unknown(client: Any, uri: str, name: str, tracking_uri: str) -> JobError:
    """The error that lists the registered models, or the aliases and versions of this one."""
    server = without_password(tracking_uri)
    models = {one.name: one for one in _asked(client.search_registered_models, tracking_uri) or ()}
    if name not in models:
        return JobError(
            f"{uri}: expected a registered model of MLflow at {server}, "
            f"{known_names(name, models)}",
            "name another one, or another server (tracking_uri=)",
        )
    aliases = [f"{name}@{alias}" for alias in models[name].aliases]
    found = client.search_model_versions(f"name = '{name}'")
    versions = [f"{name}/{one.version}" for one in found]
    if not versions:
        return JobError(
            f"{uri}: expected a version or an alias of {name} at {server}, got a model without any",
            "train with tracking.register_as, or register weights: segadapt import-model WEIGHTS "
            f"--out FILE --register {name}",
        )
    return JobError(
        f"{uri}: expected a version or an alias of {name} at {server}, "
        f"{known_names(uri.removeprefix(REGISTERED), [*aliases, *versions])}",
        "name one of them",
    )
