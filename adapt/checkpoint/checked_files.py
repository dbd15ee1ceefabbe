"""The files of a run's checkpoints, read by the checksums of their manifests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from adapt.checkpoint.files import sha256_of
from adapt.errors import DataError
from storage.local import LocalStore
from storage.retry import DOWNLOADS, Retry
from storage.store import Store

_Result = TypeVar("_Result")

MANIFEST = "manifest.json"


class CheckedFiles:
    """Reads files of checkpoints under `store`, a run's folder; none whose checksum is wrong."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def again(self, read: Callable[[], _Result]) -> _Result:
        """Read an object again that seems to be damaged, as it may be so on its way alone: a job
        would go back to an older checkpoint. A folder is read once."""
        attempts = 1 if isinstance(self._store, LocalStore) else DOWNLOADS
        wrong = (DataError, ValueError, TypeError)
        return Retry(attempts, longest_wait_s=3.0, on=wrong).call(read)

    def fetch(self, name: str, file: str, folder: Path) -> None:
        """Download a file of a checkpoint into a local folder. Raises `DataError` where it or the
        manifest is damaged, `MissingObject`."""
        self.again(lambda: self._fetch_once(name, file, folder))

    def _fetch_once(self, name: str, file: str, folder: Path) -> None:
        expected = self.digests(name).get(file)
        if expected is None:
            raise _damaged_manifest(name, f"no {file}")
        self._store.get_file(f"{name}/{file}", folder / file)
        found = sha256_of(folder / file)
        if found != expected:
            raise DataError(
                f"{name}/{file}: expected sha256 {expected[:12]}..., got {found[:12]}..."
            )

    def digests(self, name: str) -> dict[str, str]:
        """The sha256 of a checkpoint's files. Raises `DataError` for a damaged manifest."""
        manifest = self._store.get(f"{name}/{MANIFEST}")
        try:
            return dict(json.loads(manifest)["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged_manifest(name, repr(error)) from error


def _damaged_manifest(name: str, fault: str) -> DataError:
    return DataError(
        f"{name}/{MANIFEST}: expected a checkpoint's manifest, got a damaged one [{fault}]"
    )
