"""Saves a run and finds it again: one folder a step, and pointers written last.

    RUN/step-00000500/weights.safetensors   the segmentation network alone, for everybody
    RUN/step-00000500/state.pt              what a resume needs: engine, streams, MLflow run
    RUN/step-00000500/spec.yaml             the resolved job spec
    RUN/step-00000500/ema.safetensors       a second network, where the job evaluates two
    RUN/step-00000500/history.jsonl.gz      metrics and pictures until then, for the report
    RUN/step-00000500/manifest.json         sha256 of the others; written after them
    RUN/LATEST, RUN/BEST.json               written after the manifest
    RUN/report.html                         the report, at the end of the run
    RUN/WRITER.json                         the process that writes the run (adapt.checkpoint.lease)

A crash leaves at worst a folder without manifest, which no reader opens. A step that is saved again
gets a folder of its own (`step-00000500-02`). A reader trusts a folder only when all checksums
hold, and otherwise takes the one before it. `torch.load` runs with `weights_only`.
"""

import gzip
import json
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import Field

from adapt.checkpoint.files import memory_file, sha256_of
from adapt.checkpoint.lease import LEASE, Lease
from adapt.checkpoint.snapshot import Snapshot
from adapt.config.section import Section
from adapt.errors import DataError
from adapt.models.file_header import write_weights
from adapt.models.weight_files import NoWeights, read_content
from adapt.models.weights import STATE, WEIGHTS
from storage.errors import MissingObject
from storage.local import LocalStore
from storage.retry import DOWNLOADS, Retry
from storage.store import Store
from storage.uris import join

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

SPEC, MANIFEST, HISTORY = "spec.yaml", "manifest.json", "history.jsonl.gz"
REPORT = "report.html"


class CheckpointConfig(Section):
    """Where and how often a run is saved."""

    uri: str = Field("runs", description="Folder of all runs: file path or URI of a store.")
    every_minutes: float = Field(10.0, gt=0, description="Longest time between two saves.")
    every_steps: int | None = Field(None, ge=1, description="Also save every so many steps.")
    keep: int = Field(3, ge=1, description="Newest checkpoints kept, beside the best.")


class Saved(NamedTuple):
    """One checkpoint: its folder's name, the URI of its weights and their sha256."""

    name: str
    weights_uri: str
    sha256: str


class Best(NamedTuple):
    """The best checkpoint so far and its score."""

    name: str
    score: float
    sha256: str

    @property
    def step(self) -> int:
        """Steps done."""
        return step_of(self.name)


def step_of(name: str) -> int:
    """Steps done at a checkpoint, by its folder's name."""
    return int(name.split("-")[1])


class RunFolder:
    """The checkpoints of one run under `store` (rooted at the run's folder), which others find at
    `uri`; only the holder of the `lease` writes, where there is one."""

    def __init__(self, store: Store, uri: str | None = None, lease: Lease | None = None) -> None:
        self.store, self.uri, self.lease = store, uri or store.uri, lease

    def leased(self, lease: Lease) -> "RunFolder":
        """The same folder for the holder of its lease: writes raise `LeaseLost` once it is not."""
        return RunFolder(self.store, self.uri, lease)

    def save(self, snapshot: Snapshot) -> Saved:
        """Write a checkpoint durably and point LATEST, which is for people, at it.

        Raises `StoreError`.
        """
        name = self._free_name(snapshot.step)
        header = dict(snapshot.description)
        writers: dict[str, Callable[[Path], object]] = {
            WEIGHTS: partial(write_weights, snapshot.weights, header),
            **{file: partial(write_weights, w, header) for file, w in snapshot.others.items()},
            STATE: lambda path: torch.save(dict(snapshot.state), path),
            SPEC: lambda path: path.write_text(snapshot.spec_text),
        }
        if snapshot.history:
            writers[HISTORY] = partial(_write_compressed, snapshot.history)
        digests = {}
        for file, write in writers.items():
            with memory_file(file) as path:
                write(path)
                digests[file] = sha256_of(path)
                self._check_lease()
                self.store.put_file(f"{name}/{file}", path)
        manifest = {"step": snapshot.step, "sha256": digests}
        self._check_lease()
        self.store.put(f"{name}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
        self._check_lease()
        self.store.put("LATEST", name.encode())
        return Saved(name, join(self.uri, name, WEIGHTS), digests[WEIGHTS])

    def _free_name(self, step: int) -> str:
        """A folder without a manifest: a finished save is never written over, since a kill
        midway would lose it."""
        name = f"step-{step:08d}"
        taken = [other for other in self.names() if other.startswith(name)]
        times = [int(other[len(name) + 1 :] or 1) for other in taken]
        return f"{name}-{max(times) + 1:02d}" if times else name

    def newest_valid(self) -> tuple[str, dict[str, Any]] | None:
        """The newest checkpoint whose checksums hold, as (folder's name, state); None where there
        is none.

        A damaged one is named in a warning and skipped.
        """
        for name in reversed(self.names()):
            try:
                return name, self.load(name)
            except (DataError, MissingObject) as error:
                log.warning("%s/%s: damaged, skipped: %s", self.store.uri, name, error)
        return None

    def load(self, name: str) -> dict[str, Any]:
        """The state of one checkpoint. Raises `DataError` or `MissingObject` where it is
        damaged."""
        with tempfile.TemporaryDirectory(prefix="segadapt-resume-") as folder:
            for file in (SPEC, STATE):
                self._fetch_verified(name, file, Path(folder))
            try:
                state: dict[str, Any] = read_content(Path(folder) / STATE)
            except NoWeights as error:
                raise DataError(
                    f"{name}/{STATE}: expected a checkpoint's state, got a file {error.problem}"
                ) from error
        return state

    def spec_text(self, name: str) -> str:
        """The resolved job spec that was saved with a checkpoint."""
        return self.store.get(f"{name}/{SPEC}").decode()

    def history_text(self, name: str) -> str:
        """The history that was saved with a checkpoint; "" where it has none, as those of older
        versions. Raises `DataError` or `MissingObject` where it is damaged."""
        if HISTORY not in self._again(lambda: self._digests(name)):
            return ""
        with tempfile.TemporaryDirectory(prefix="segadapt-history-") as folder:
            self._fetch_verified(name, HISTORY, Path(folder))
            return gzip.decompress((Path(folder) / HISTORY).read_bytes()).decode()

    def put_report(self, page: bytes) -> None:
        """Write the run's report, in place of an earlier one. Raises `StoreError`."""
        self._check_lease()
        self.store.put(REPORT, page)

    def names(self) -> list[str]:
        """The folders of finished saves, oldest first."""
        keys = [info.key for info in self.store.list("step-")]
        return sorted(key.split("/")[0] for key in keys if key.endswith(f"/{MANIFEST}"))

    def mark_best(self, saved: Saved, score: float) -> None:
        """Point BEST at a checkpoint."""
        best = Best(saved.name, score, saved.sha256)
        self._check_lease()
        self.store.put("BEST.json", json.dumps(best._asdict(), allow_nan=False).encode())

    def best(self) -> Best | None:
        """The best checkpoint so far, None before the first evaluation."""
        try:
            return self._again(lambda: _parsed_best(self.store.get("BEST.json")))
        except MissingObject:
            return None
        except (ValueError, TypeError) as error:
            log.warning("%s/BEST.json: damaged, skipped: %s", self.store.uri, error)
            return None

    def verified_best(self) -> Best | None:
        """The best checkpoint; where its weights are damaged it loses its mark, with a warning.

        Downloads them, so that a later evaluation can win the mark back.
        """
        best = self.best()
        if best is None:
            return None
        with tempfile.TemporaryDirectory(prefix="segadapt-resume-") as folder:
            try:
                self._fetch_verified(best.name, WEIGHTS, Path(folder))
            except (DataError, MissingObject) as error:
                log.warning(
                    "%s/%s: the best checkpoint is damaged, its mark is removed: %s",
                    self.store.uri,
                    best.name,
                    error,
                )
                self.store.delete("BEST.json")
                return None
        return best

    def retain(self, keep: int, newest: str) -> list[str]:
        """Delete all but the best and the `keep` newest checkpoints up to `newest`; return those
        that are kept.

        Later ones are damaged ones that a resume skipped: they do not count yet. A manifest
        goes first, files after it.
        """
        self._check_lease()
        best, names = self.best(), self.names()
        old = [name for name in names if name <= newest][:-keep]
        removed = {name for name in old if best is None or name != best.name}
        for name in sorted(removed):
            self.store.delete(f"{name}/{MANIFEST}")
            for info in list(self.store.list(f"{name}/")):
                self.store.delete(info.key)
        return [name for name in names if name not in removed]

    def deliver(self, name: str, out: Path) -> None:
        """Put a checkpoint's weights and job spec, checked, into a folder. Raises `DataError`."""
        out.mkdir(parents=True, exist_ok=True)
        for file in (WEIGHTS, SPEC):
            self._fetch_verified(name, file, out)

    def clear(self) -> None:
        """Delete the whole run but for its lease, pointers first."""
        self._check_lease()
        for key in ("LATEST", "BEST.json", "JOB"):
            self.store.delete(key)
        for info in list(self.store.list()):
            if info.key != LEASE:
                self.store.delete(info.key)

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _again(self, read: Callable[[], _Result]) -> _Result:
        """Read an object again that seems to be damaged, as it may be so on its way alone: a job
        would go back to an older checkpoint. A folder is read once."""
        attempts = 1 if isinstance(self.store, LocalStore) else DOWNLOADS
        wrong = (DataError, ValueError, TypeError)
        return Retry(attempts, longest_wait_s=3.0, on=wrong).call(read)

    def _fetch_verified(self, name: str, file: str, folder: Path) -> None:
        self._again(lambda: self._fetch_once(name, file, folder))

    def _fetch_once(self, name: str, file: str, folder: Path) -> None:
        expected = self._digests(name).get(file)
        if expected is None:
            raise _damaged_manifest(name, f"no {file}")
        self.store.get_file(f"{name}/{file}", folder / file)
        found = sha256_of(folder / file)
        if found != expected:
            raise DataError(
                f"{name}/{file}: expected sha256 {expected[:12]}..., got {found[:12]}..."
            )

    def _digests(self, name: str) -> dict[str, str]:
        """The sha256 of a checkpoint's files. Raises `DataError` for a damaged manifest."""
        manifest = self.store.get(f"{name}/{MANIFEST}")
        try:
            return dict(json.loads(manifest)["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged_manifest(name, repr(error)) from error


def _damaged_manifest(name: str, fault: str) -> DataError:
    return DataError(
        f"{name}/{MANIFEST}: expected a checkpoint's manifest, got a damaged one [{fault}]"
    )


def _write_compressed(text: str, path: Path) -> None:
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))


def _parsed_best(data: bytes) -> Best:
    """Raises `ValueError` or `TypeError` where it is damaged, or its score is no number."""
    best = Best(**json.loads(data))
    if not isfinite(best.score):
        raise ValueError(f"expected a number as its score, got {best.score}")
    return best
