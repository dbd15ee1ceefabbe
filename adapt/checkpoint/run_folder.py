"""Saves a run and finds it again: one folder a step, and pointers written last.

    RUN/step-00000500/weights.safetensors   the segmentation network alone, for everybody
    RUN/step-00000500/state.pt              what a resume needs: engine, streams, MLflow run
    RUN/step-00000500/shards/               what ranks hold in parts, a file each (train.parallel)
    RUN/step-00000500/spec.yaml             the resolved job spec
    RUN/step-00000500/ema.safetensors       a second network, where the job evaluates two
    RUN/step-00000500/history.jsonl.gz      metrics and pictures until then, for the report
    RUN/step-00000500/manifest.json         sha256 of the others; written after them
    RUN/LATEST, RUN/BEST.json               written after the manifest
    RUN/report.html                         the report, at the end of the run
    RUN/profile/step-00000010.html          the profile of some steps, and their trace beside it
    RUN/WRITER.json                         the process that writes the run (adapt.checkpoint.lease)

A crash leaves at worst a folder without manifest, which no reader opens. A step that is saved again
gets a folder of its own (`step-00000500-02`). A reader trusts a folder only when all checksums
hold, and otherwise takes the one before it. `torch.load` runs with `weights_only`.
"""

import gzip
import json
import logging
import tempfile
import zlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adapt.checkpoint.checked_files import MANIFEST, CheckedFiles
from adapt.checkpoint.files import memory_file, sha256_of
from adapt.checkpoint.lease import LEASE, Lease
from adapt.checkpoint.saved import Best, Saved, step_of
from adapt.checkpoint.shards import SHARDS
from adapt.checkpoint.snapshot import Snapshot
from adapt.errors import DataError
from adapt.models.file_header import write_weights
from adapt.models.no_weights import NoWeights
from adapt.models.weight_files import read_content
from adapt.models.weights import STATE, WEIGHTS
from storage.errors import MissingObject
from storage.store import Store
from storage.uris import join

log = logging.getLogger(__name__)

SPEC, HISTORY = "spec.yaml", "history.jsonl.gz"
RESTORE_HISTORY = "restore it from a copy of the run"
REPORT = "report.html"


class RunFolder:
    """The checkpoints of one run under `store` (rooted at the run's folder), which others find at
    `uri`; only the holder of the `lease` writes, where there is one."""

    def __init__(self, store: Store, uri: str | None = None, lease: Lease | None = None) -> None:
        self.store, self.uri, self.lease = store, uri or store.uri, lease
        self._files = CheckedFiles(store)

    def leased(self, lease: Lease) -> "RunFolder":
        """The same folder for the holder of its lease: writes raise `LeaseLost` once it is not."""
        return RunFolder(self.store, self.uri, lease)

    def save(self, snapshot: Snapshot) -> Saved:
        """Write a checkpoint durably and point LATEST, which is for people, at it.

        Raises `StoreError`.
        """
        name = snapshot.name or self.free_name(snapshot.step)
        header = dict(snapshot.description)
        writers: dict[str, Callable[[Path], object]] = {
            WEIGHTS: partial(write_weights, snapshot.weights, header),
            **{file: partial(write_weights, w, header) for file, w in snapshot.others.items()},
            STATE: lambda path: torch.save(dict(snapshot.state), path),
            SPEC: lambda path: path.write_text(snapshot.spec_text),
        }
        if snapshot.history:
            writers[HISTORY] = partial(_write_compressed, snapshot.history)
        digests = dict(snapshot.shards)
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

    def put_shards(self, name: str, files: dict[str, bytes]) -> dict[str, str]:
        """Write a rank's shards of a checkpoint that is under way -> their sha256 by file. Raises
        `StoreError`."""
        digests = {}
        for file, content in files.items():
            with memory_file(file) as path:
                path.write_bytes(content)
                digests[f"{SHARDS}/{file}"] = sha256_of(path)
                self._check_lease()
                self.store.put_file(f"{name}/{SHARDS}/{file}", path)
        return digests

    def fetch_shards(self, name: str, folder: Path, keep: bool = True) -> None:
        """Download the shards of a checkpoint, checked; without `keep` each is deleted then. Raises
        `DataError` or `MissingObject` where one is damaged."""
        (folder / SHARDS).mkdir()
        for file in self._files.again(lambda: self._files.digests(name)):
            if file.startswith(f"{SHARDS}/"):
                self._files.fetch(name, file, folder)
                if not keep:
                    (folder / file).unlink()

    def free_name(self, step: int, used: Collection[str] = ()) -> str:
        """A folder without a manifest, and none of those used: a finished save is never written
        over, since a kill midway would lose it."""
        name = f"step-{step:08d}"
        taken = [other for other in {*self.names(), *used} if other.startswith(name)]
        times = [int(other[len(name) + 1 :] or 1) for other in taken]
        return f"{name}-{max(times) + 1:02d}" if times else name

    def newest_valid(self) -> tuple[str, dict[str, Any]] | None:
        """The newest checkpoint whose checksums hold, as (folder's name, state); None where there
        is none.

        A damaged one is named in a warning and skipped.
        """
        for name in reversed(self.names()):
            try:
                state = self.load(name)
                with tempfile.TemporaryDirectory(prefix="segadapt-resume-") as folder:
                    self.fetch_shards(name, Path(folder), keep=False)
                return name, state
            except (DataError, MissingObject) as error:
                log.warning("%s/%s: damaged, skipped: %s", self.store.uri, name, error)
        return None

    def load(self, name: str) -> dict[str, Any]:
        """The state of one checkpoint. Raises `DataError` or `MissingObject` where it is
        damaged."""
        with tempfile.TemporaryDirectory(prefix="segadapt-resume-") as folder:
            for file in (SPEC, STATE):
                self._files.fetch(name, file, Path(folder))
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
        if HISTORY not in self._files.again(lambda: self._files.digests(name)):
            return ""
        with tempfile.TemporaryDirectory(prefix="segadapt-history-") as folder:
            self._files.fetch(name, HISTORY, Path(folder))
            content = (Path(folder) / HISTORY).read_bytes()
        try:
            return gzip.decompress(content).decode()
        except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
            raise DataError(
                f"{name}/{HISTORY}: expected a run's history, got a damaged file: {error}",
                RESTORE_HISTORY,
            ) from error

    def put_report(self, page: bytes) -> None:
        """Write the run's report, in place of an earlier one. Raises `StoreError`."""
        self._check_lease()
        self.store.put(REPORT, page)

    def put_profile(self, name: str, content: bytes) -> None:
        """Write a file of a profile, in place of an earlier one. Raises `StoreError`."""
        self._check_lease()
        self.store.put(name, content)

    def names(self) -> list[str]:
        """The folders of finished saves, oldest first."""
        keys = [info.key for info in self.store.list("step-")]
        return sorted(key.split("/")[0] for key in keys if key.endswith(f"/{MANIFEST}"))

    def of_step(self, step: int) -> Saved | None:
        """The newest finished save of a step; None where there is none. Raises `DataError` for a
        damaged manifest."""
        names = [name for name in self.names() if step_of(name) == step]
        if not names:
            return None
        digests = self._files.again(lambda: self._files.digests(names[-1]))
        return Saved(names[-1], join(self.uri, names[-1], WEIGHTS), digests[WEIGHTS])

    def mark_best(self, saved: Saved, score: float) -> None:
        """Point BEST at a checkpoint."""
        best = Best(saved.name, score, saved.sha256)
        self._check_lease()
        self.store.put("BEST.json", json.dumps(best._asdict(), allow_nan=False).encode())

    def best(self) -> Best | None:
        """The best checkpoint so far, None before the first evaluation."""
        try:
            return self._files.again(lambda: Best.parsed(self.store.get("BEST.json")))
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
                self._files.fetch(best.name, WEIGHTS, Path(folder))
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

    def retain(self, keep: int, newest: str, spared: Collection[int] = ()) -> list[str]:
        """Delete all but the best, the `keep` newest checkpoints up to `newest`, and the newest of
        each step that is `spared`; return those that are kept.

        Later ones are damaged ones that a resume skipped: they do not count yet. A manifest
        goes first, files after it.
        """
        self._check_lease()
        best, names = self.best(), self.names()
        old = [name for name in names if name <= newest][:-keep]
        stay = {step_of(name): name for name in names if step_of(name) in spared}.values()
        removed = {name for name in old if best is None or name != best.name} - set(stay)
        for name in sorted(removed):
            self.store.delete(f"{name}/{MANIFEST}")
            for info in list(self.store.list(f"{name}/")):
                self.store.delete(info.key)
        return [name for name in names if name not in removed]

    def deliver(self, name: str, out: Path) -> None:
        """Put a checkpoint's weights and job spec, checked, into a folder. Raises `DataError`."""
        out.mkdir(parents=True, exist_ok=True)
        for file in (WEIGHTS, SPEC):
            self._files.fetch(name, file, out)

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


def _write_compressed(text: str, path: Path) -> None:
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))
