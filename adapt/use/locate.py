"""Where a trained network's weights are: a file, a checkpoint's folder, a run's, or a version of a
registered model."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from adapt.checkpoint.checked_files import MANIFEST
from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import DataError, JobError, known_names
from adapt.models.weight_files import ENDINGS
from adapt.models.weights import WEIGHTS
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_errors import REFUSALS, be_brief, code_of, failures, first_line, fix_of
from adapt.tracking.registry import VERSION
from adapt.tracking.tracker import BEST_SHA256_TAG, BEST_URI_TAG
from storage.errors import MissingObject, SilentStore, StoreError, StoreUnavailable
from storage.store import Store
from storage.stores import READ_ONLY, Stores
from storage.uris import join, split_uri, without_password

REGISTERED = "models:/"


class Located(NamedTuple):
    """The URI of a file of weights, and its sha256 where that is known."""

    uri: str
    sha256: str | None = None


def located(uri: str, stores: Stores) -> Located:
    """The file of weights at a URI: itself, that of a checkpoint's folder, or of the best
    checkpoint, else the last, in a run's folder.

    Raises `JobError` where there is none, `StoreError`, and `DataError` for a damaged manifest.
    """
    if uri.partition("?")[0].lower().endswith(ENDINGS):
        return Located(uri, _sha256_beside(uri, stores))
    store = stores.open(uri)
    if store.exists(WEIGHTS):
        return located(join(uri, WEIGHTS), stores)
    folder = RunFolder(store)
    best = folder.best()
    if best is not None:
        return Located(join(uri, best.name, WEIGHTS), best.sha256)
    names = folder.names()
    if names:
        return located(join(uri, names[-1], WEIGHTS), stores)
    raise JobError(
        f"{without_password(uri)}: expected a file of weights or the folder of a checkpoint or of "
        "a run, got none",
        f"name the folder of {WEIGHTS}, or a file that ends with {', '.join(ENDINGS)}",
    )


def _sha256_beside(uri: str, stores: Stores) -> str | None:
    """The digest of a file in a checkpoint's folder by the manifest beside it; None without."""
    folder, _, file = uri.rpartition("/")
    web = split_uri(uri)[0] in READ_ONLY
    if web and "?" in uri:  # its signature is of this file alone
        return None
    store: Store = stores.open(folder or ".")
    try:
        values = json.loads(store.get(MANIFEST))
    except MissingObject:
        return None
    except (StoreUnavailable, SilentStore):
        raise
    except StoreError:
        if web:  # servers may refuse what they do not have, or show a page
            return None
        raise
    except ValueError as error:
        if web:
            return None
        raise DataError(
            f"{join(folder or '.', MANIFEST)}: expected a checkpoint's manifest, got a damaged one "
            f"[{error!r}]",
            "load another checkpoint",
        ) from error
    digests = values.get("sha256") if isinstance(values, dict) else None
    return digests.get(file) if isinstance(digests, dict) else None


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
