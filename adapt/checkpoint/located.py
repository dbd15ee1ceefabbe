"""Where the weights of a checkpoint are: a file, or the one of a checkpoint's or a run's folder."""

import json
from typing import NamedTuple

from adapt.checkpoint.checked_files import MANIFEST
from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import DataError, JobError
from adapt.models.weight_files import ENDINGS
from adapt.models.weights import WEIGHTS
from storage.errors import MissingObject, SilentStore, StoreError, StoreUnavailable
from storage.store import Store
from storage.stores import READ_ONLY, Stores
from storage.uris import join, split_uri, without_password


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
