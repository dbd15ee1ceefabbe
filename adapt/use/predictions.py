"""Predictions of whole sets, to be continued: images are read and files written by threads beside
the network.

A file appears whole or not at all, and an item's rows are stored after its files; so whatever ends
the process, the same work resumes behind what is stored. Bad files are named and skipped.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

from adapt.data.problems import Problem, shown
from adapt.errors import DataError
from adapt.use.items import IMAGE, Item
from adapt.use.model import PreparedImage
from adapt.use.record import Done, Row, shares_of
from adapt.use.recording import Recording
from adapt.use.segmentation import Segmentation
from adapt.use.work import Stopped, Work
from storage.errors import FixableError, SilentStore, StoreError, StoreUnavailable
from storage.uris import checked_key


@dataclass
class Summary:
    """Counts of one process: images, videos and frames that were written; items that were done
    before; the bad ones; files that were left out, by reason. `stopped`: the rest is left."""

    images: int = 0
    videos: int = 0
    frames: int = 0
    skipped: int = 0
    bad: list[Problem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    stopped: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "bad": [{"path": one.path, "text": one.text} for one in self.bad]}


class Predictor:
    """Predicts items in their order and writes their files and rows; `summary` counts."""

    def __init__(self, work: Work) -> None:
        self.work, self.summary = work, Summary()
        self._readers = ThreadPoolExecutor(work.threads, thread_name_prefix="read")

    def run(self, items: Sequence[Item], overwrite: bool = False) -> Summary:
        """Predict the items that are not done; `overwrite`: all.

        A stop leaves the rest. Raises `StoreError` where a store is unreachable or files cannot be
        written, `JobError` for a camera that is not there.
        """
        try:
            left = self._left(items, {} if overwrite else self.work.record.done())
            self.work.report(more=len(left))
            self._predict_all(left)
        except Stopped:
            self.summary.stopped = True
        except BaseException:
            with suppress(StoreError):  # the first failure counts
                self._finish()
            raise
        self._finish()
        return self.summary

    def _left(self, items: Iterable[Item], done: dict[str, Done]) -> list[Item]:
        """The items that are not done whole, without those whose name no file can have."""
        there = self._files() if done else set()
        left = []
        for item in items:
            self.work.check()
            try:
                checked_key(item.name, self.work.out.uri)
            except StoreError as error:
                self._is_bad(item, error)
                continue
            before = done.get(item.name)
            if before is None or not there.issuperset(self._keys(item.name, before)):
                left.append(item)
            else:
                self.summary.skipped += 1
        return left

    def _files(self) -> set[str]:
        kinds = self.work.wanted.kinds
        return {entry.key for kind in kinds for entry in self.work.out.list(f"{kind}/")}

    def _keys(self, name: str, done: Done) -> Iterable[str]:
        wanted = self.work.wanted
        return wanted.of_video(name, done.frames) if done.is_video else wanted.files(name)

    def _predict_all(self, items: Sequence[Item]) -> None:
        for kind, some in groupby(items, lambda item: item.kind):
            if kind == IMAGE:
                self._predict_images(list(some))
                self.work.writes.collect_all()
                continue
            for item in some:
                self.work.check()
                self._predict_video(item)

    def _predict_images(self, items: Sequence[Item]) -> None:
        for chunk in self.work.together(self._prepared(items)):
            self.work.check()
            for item, result in self._results(chunk):
                job = self._write(item, result)
                self.work.writes.add(self.work.size_of(result), job, self._wrote)

    def _predict_video(self, item: Item) -> None:
        recording = Recording(self.work, item)
        try:
            recording.predict()
            self.summary.videos += 1
            self.summary.frames += recording.frames
        except (DataError, StoreError) as error:
            self._is_bad(item, error)

    def _prepared(self, items: Sequence[Item]) -> Iterator[tuple[Item, PreparedImage]]:
        """Images in order, a few read ahead, without bad ones."""
        left = iter(items)
        ahead = self.work.threads + 2
        coming = deque((item, self._read(item)) for item in islice(left, ahead))
        while coming:
            item, future = coming.popleft()
            coming.extend((following, self._read(following)) for following in islice(left, 1))
            try:
                image = self.work.result_of(future)
            except (DataError, StoreError) as error:
                self._is_bad(item, error)
                self.work.report(done=1)
                continue
            yield item, image

    def _read(self, item: Item) -> "Future[PreparedImage]":
        prepare = self.work.model.prepare
        return self._readers.submit(lambda: prepare(item.image(), item.source))

    def _results(
        self, chunk: Sequence[tuple[Item, PreparedImage]]
    ) -> Iterator[tuple[Item, Segmentation]]:
        """Results in order; where one of several is refused, each is predicted alone."""
        try:
            results = self.work.segmented([image for _, image in chunk])
        except DataError as error:
            if len(chunk) > 1:
                for pair in chunk:
                    yield from self._results([pair])
                return
            self._is_bad(chunk[0][0], error)
            self.work.report(done=1)
            return
        yield from zip((item for item, _ in chunk), results, strict=True)

    def _write(self, item: Item, result: Segmentation) -> Callable[[], list[Row]]:
        def write() -> list[Row]:
            wanted = self.work.wanted
            for key, data in wanted.encoded(result, wanted.kinds, item.name):
                self.work.out.put(key, data)
            return [shares_of(result, item.name)]

        return write

    def _wrote(self, rows: list[Row]) -> None:
        self.work.record.add(rows)
        self.summary.images += 1
        self.work.report(done=1)

    def _is_bad(self, item: Item, error: FixableError) -> None:
        """Count an item as bad. Raises the error where its store is unreachable: others of it would
        be bad as well."""
        if isinstance(error, StoreUnavailable | SilentStore):
            raise error
        text = error.problem.removeprefix(f"{item.source}: ")
        self.summary.bad.append(Problem(shown(item.source), text, item.name))
        self.work.report(bad=1)

    def _finish(self) -> None:
        """Write the files of results that are there, then their rows."""
        self._readers.shutdown(cancel_futures=True)
        self.work.writes.close()
        self.work.record.flush()
