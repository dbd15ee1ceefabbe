"""The weights that a platform is to serve or to predict with: their URI and sha256, found before
anything is sent, so that every replica, every restart and every slice has the same ones."""

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

from adapt.platforms.platform import Profile
from adapt.platforms.reachable import asked_faults, raise_together
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.use.locate import REGISTERED, located, registered
from storage.errors import NoCredentials
from storage.stores import Stores
from storage.uris import split_uri


class FoundModel(NamedTuple):
    """The URI of a file of weights, or a path; its sha256 where that is known; and whether a path
    is the file that was named, not a checkpoint's folder."""

    uri: str
    sha256: str | None = None
    is_file: bool = False


def find_model(
    model: str, profile: Profile, stores: Stores, tracking_uri: str | None, takes_paths: bool
) -> FoundModel:
    """The weights of MODEL; of a path of this machine, where the platform `takes_paths`, the
    absolute one of the file or of the checkpoint's folder. A path that the profile mounts stays one
    of the container: the weights' where it is mounted from this machine, else as it is, unread, and
    so does a path where the platform takes none, for its request to refuse.

    Raises `JobError` for a model that is not there, `StoreError`.
    """
    uri, sha256 = model, None
    if model.startswith(REGISTERED):
        uri, sha256 = registered(model, tracking_uri or embedded_tracking_uri(Path("runs")))
        raise_together(asked_faults([("MODEL", uri)], profile, stores))
    scheme, path = split_uri(uri)
    if scheme == "file" and profile.outside(path) is not None:
        mounted = _mounted(posixpath.normpath(path), profile, stores)
        return mounted._replace(sha256=sha256 or mounted.sha256)
    if scheme == "file" and not takes_paths:
        return FoundModel(path)
    try:
        found = located(uri, stores)
    except NoCredentials as error:
        raise NoCredentials(error.problem, profile.keys_here or error.fix) from error
    scheme, where = split_uri(found.uri)
    if scheme != "file":
        return FoundModel(found.uri, sha256 or found.sha256)
    file, is_file = Path(where).resolve(), Path(split_uri(model)[1]).is_file()
    return FoundModel(str(file if is_file else file.parent), sha256 or found.sha256, is_file)


def _mounted(path: str, profile: Profile, stores: Stores) -> FoundModel:
    here = profile.here(path)
    if here is None or not os.access(here, os.R_OK):
        return FoundModel(path)
    found = located(here, stores)
    return FoundModel(path + found.uri.removeprefix(here), found.sha256)
