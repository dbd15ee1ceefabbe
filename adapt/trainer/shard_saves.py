"""Stores what ranks hold in parts: each rank its own shards, before the leader's files of the same
checkpoint.

Training waits for these uploads, which all ranks make at the same time; the leader's own files
follow in the background, and the manifest after them. A checkpoint whose shards are not all stored
never gets one.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.shards import files_of_rank
from adapt.ranks import any_rank, gather_keys, rank, share_text
from storage.errors import StoreError

log = logging.getLogger(__name__)

WAIT_S = 2.0


class Stored(NamedTuple):
    """The folder of a checkpoint's shards, and the sha256 of all ranks' files."""

    name: str = ""
    sha256: Mapping[str, str] = {}


class ShardSaves:
    """Stores shards under a run's folder; all ranks call it in the same order."""

    def __init__(self, folder: RunFolder, beat: Callable[[], None]) -> None:
        self._folder, self._beat = folder, beat
        self._used: set[str] = set()

    def store(self, step: int, tensors: Mapping[str, Tensor], patience_s: float) -> Stored | None:
        """Store all ranks' shards of a step; try again for `patience_s`.

        Without patience a failure is a warning, and None is returned. Raises `StoreError`.
        """
        files, end_s = files_of_rank(tensors), time.monotonic() + patience_s
        while True:
            name, error = self._named(step)
            own: dict[str, str] = {}
            if name is not None:
                own, error = self._put(name, files)
            if not any_rank(error is not None)[0]:
                assert name is not None, "the leader has named a folder"
                return Stored(name, _all_ranks(own))
            if not any_rank(rank() == 0 and time.monotonic() < end_s)[0]:
                self._failed(step, error, patience_s)
                return None
            self._beat()
            time.sleep(WAIT_S)

    def _named(self, step: int) -> tuple[str | None, StoreError | None]:
        """The leader's choice of a folder, the same on all ranks."""
        name, error = None, None
        if rank() == 0:
            try:
                name = self._folder.free_name(step, self._used)
                self._used.add(name)
            except StoreError as failure:
                error = failure
        return share_text(name), error

    def _put(self, name: str, files: dict[str, bytes]) -> tuple[dict[str, str], StoreError | None]:
        try:
            return self._folder.put_shards(name, files), None
        except StoreError as error:
            return {}, error

    def _failed(self, step: int, error: StoreError | None, patience_s: float) -> None:
        """Raise, or warn."""
        error = error or StoreError("another rank could not store its part")
        if patience_s > 0:
            raise error
        log.warning(
            "the shards of step %d could not be stored, training continues: %s", step, error
        )


def _all_ranks(own: Mapping[str, str]) -> dict[str, str]:
    pairs = gather_keys(tuple(f"{sha256} {file}" for file, sha256 in own.items()))
    return {file: sha256 for sha256, _, file in (pair.partition(" ") for pair in pairs)}
