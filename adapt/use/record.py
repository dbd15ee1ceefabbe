"""The record of a folder of predictions: which images are done, their class shares, and the
settings that all of them have.

A store has no appending, so rows are stored in parts, `.segadapt/rows/SLICE/TIME.csv`, after the
files that they are of; `shares.csv` is written anew from all parts. A part is lost with a process
that is killed, and its images are predicted again.
"""

import csv
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from adapt.errors import DataError, JobError
from adapt.use.segmentation import Segmentation
from storage.errors import MissingObject
from storage.store import Store
from storage.uris import join

SHARES = "shares.csv"
SETTINGS = ".segadapt/settings.json"
_ROWS = ".segadapt/rows"
_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
_FEWEST = 5
"""Values of a row: name, frame, time, a class, entropy."""
_LEAST_S, _MOST_SHARE = 5.0, 0.05
"""Parts are stored this many seconds apart, or after this share of the time so far."""

Row = list[str]


def shares_of(one: Segmentation, name: str, frame: int | None = None, time_s: float = 0.0) -> Row:
    """A line of `shares.csv`: name, frame and its time in seconds, of a video; the share of each
    class in percent; the mean entropy from 0 to 1."""
    counts = np.bincount(one.class_map.ravel(), minlength=one.classes.num_classes)
    shares = 100 * counts / one.class_map.size
    when = ["", ""] if frame is None else [str(frame), f"{time_s:.3f}"]
    entropy = one.entropy.mean(dtype=np.float64)
    return [name, *when, *(f"{share:.4f}" for share in shares), f"{entropy:.6f}"]


class Done(NamedTuple):
    """The number of an item's rows: of an image one, of a video its frames."""

    frames: int
    is_video: bool


class Record:
    """The rows of one process, `part` of `num_parts`, and those of all that it finds."""

    def __init__(self, store: Store, part: int, num_parts: int) -> None:
        self._store = store
        self._folder = f"{_ROWS}/{part:06d}-of-{num_parts:06d}"
        self._rows: list[Row] = []
        self._started_s = self._stored_s = time.monotonic()

    def agree(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Store the settings of the predictions; those that are there must be the same, unless
        they are to be overwritten. Raises `JobError` by the setting's name."""
        while not self._agree_once(settings, overwrite):  # another command stored its own
            pass

    def _agree_once(self, settings: Mapping[str, Any], overwrite: bool) -> bool:
        before = self._stored()
        there = self._settings(before)
        differing = [key for key in settings if there.get(key, settings[key]) != settings[key]]
        for key in [] if overwrite else differing[:1]:
            raise JobError(
                f"--out: expected a folder of predictions with {key} {settings[key]}, got "
                f"{there[key]} in {self._store.uri}",
                "name another folder, or write them anew with --overwrite",
            )
        if overwrite and there and there != {**there, **settings}:
            self._forget()
            there = {}
        after = json.dumps({**there, **settings}, indent=1).encode()
        return self._store.swap(SETTINGS, before, after) or self._stored() == after

    def check_agreed(self, settings: Mapping[str, Any]) -> None:
        """Raise `JobError` where another command has replaced the settings since `agree`: the
        folder has predictions of both."""
        there = self._settings(self._stored())
        for key in settings:
            if there.get(key) != settings[key]:
                raise JobError(
                    f"--out: expected {self._store.uri} to this command alone, got predictions of "
                    f"another one meanwhile, with {key} {there.get(key)}",
                    "run the one that you want again with --overwrite, and nothing beside it",
                )

    def done(self) -> dict[str, Done]:
        """The items that have rows, by name."""
        found: dict[str, Done] = {}
        for key in sorted(self._parts(), key=_time_of):
            seen: dict[str, Done] = {}
            for name, frame, *_ in self._read(key):
                before = seen.get(name, Done(0, False)).frames
                seen[name] = Done(before + 1, frame != "")
            found |= seen
        return found

    def add(self, rows: Sequence[Row]) -> None:
        """Keep the rows of an item whose files are stored, and store them when it is time."""
        self._rows.extend(rows)
        now_s = time.monotonic()
        due_s = max(_LEAST_S, _MOST_SHARE * (now_s - self._started_s))
        if now_s - self._stored_s >= due_s:
            self.flush()

    def add_file(self, path: Path) -> None:
        """Store the rows of a video, a file that `writer_of` wrote, as a part of their own."""
        self.flush()
        self._store.put_file(self._new_key(), path)

    def flush(self) -> None:
        """Store the rows that are kept."""
        self._stored_s = time.monotonic()
        if self._rows:
            text = io.StringIO(newline="")
            csv.writer(text).writerows(self._rows)
            data = text.getvalue().encode(_TEXT["encoding"], _TEXT["errors"])
            self._store.put(self._new_key(), data)
            self._rows = []

    def write_shares(self, names: Sequence[str]) -> None:
        """Write `shares.csv` from all parts, the latest rows of each item. Again, where another
        process stored one meanwhile: the last to end writes all rows."""
        while True:
            parts = list(self._parts())
            with _temporary() as path:
                with path.open("w", **_TEXT) as file:
                    self._compose(parts, file, names)
                self._store.put_file(SHARES, path)
            if parts == list(self._parts()):
                return

    def _compose(self, parts: Sequence[str], file: IO[str], names: Sequence[str]) -> None:
        latest: dict[str, int] = {}
        for number in sorted(range(len(parts)), key=lambda one: _time_of(parts[one])):
            latest |= dict.fromkeys((row[0] for row in self._read(parts[number])), number)
        writer = csv.writer(file)
        writer.writerow(["name", "frame", "time_s", *names, "mean_entropy"])
        for number, key in enumerate(parts):
            writer.writerows(row for row in self._read(key) if latest[row[0]] == number)

    def _stored(self) -> bytes | None:
        try:
            return self._store.get(SETTINGS)
        except MissingObject:
            return None

    def _settings(self, stored: bytes | None) -> dict[str, Any]:
        try:
            found = {} if stored is None else json.loads(stored)
        except ValueError as error:
            where = join(self._store.uri, SETTINGS)
            raise JobError(f"{where}: expected JSON, got {error}", "remove it") from error
        return found if isinstance(found, dict) else {}

    def _forget(self) -> None:
        """Remove the rows of other settings."""
        for key in list(self._parts()):
            self._store.delete(key)

    def _parts(self) -> Iterator[str]:
        return (entry.key for entry in self._store.list(f"{_ROWS}/"))

    def _new_key(self) -> str:
        return f"{self._folder}/{time.time_ns():020d}.csv"

    def _read(self, key: str) -> Iterator[Row]:
        """The rows of a part. Raises `DataError` for a damaged one, as after a loss of power."""
        with _temporary() as path:
            self._store.get_file(key, path)
            with path.open(**_TEXT) as file:
                try:
                    for row in csv.reader(file):
                        if len(row) < _FEWEST:
                            raise self._damaged(key, f"{len(row)} values")
                        yield row
                except csv.Error as error:
                    raise self._damaged(key, str(error)) from error

    def _damaged(self, key: str, found: str) -> DataError:
        return DataError(
            f"{join(self._store.uri, key)}: expected rows of predictions, got {found}",
            "remove it, and its images are predicted again",
        )


def _time_of(key: str) -> str:
    return key.rpartition("/")[2]


def writer_of(file: IO[str]) -> Any:
    """A CSV writer of rows."""
    return csv.writer(file)


def open_rows(path: Path) -> IO[str]:
    """A file for the rows of a video."""
    return path.open("w", **_TEXT)


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="segadapt-rows-") as folder:
        yield Path(folder) / "rows.csv"
