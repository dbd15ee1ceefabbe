"""Predictions of a video or a camera: a video for each kind of picture, a file a frame for the
others, a line of `shares.csv` a frame. Videos and lines appear when the last frame is predicted.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from adapt.data.packed.codecs import Pixels
from adapt.errors import DataError
from adapt.use.items import CAMERA, Item
from adapt.use.model import PreparedImage
from adapt.use.outputs import OUTPUTS, VIDEO_ENDING, frame_name
from adapt.use.record import Row, open_rows, shares_of, writer_of
from adapt.use.segmentation import Segmentation
from adapt.use.video import Frame, VideoReader, VideoWriter
from adapt.use.work import Stopped, Work
from storage.errors import StoreError
from storage.uris import split_uri

_AHEAD = 4
"""Frames that are decoded ahead."""

Prepared = tuple[Frame, PreparedImage]


class _Drawn(NamedTuple):
    """A predicted frame: its line, its time, its pictures by kind."""

    row: Row
    time_s: float
    pictures: dict[str, Pixels]


class Recording:
    """One video or camera. `frames` counts those that are predicted."""

    def __init__(self, work: Work, item: Item) -> None:
        self._work, self._item, self.frames = work, item, 0

    def predict(self) -> None:
        """Predict all frames and write the outputs. A stop ends a camera's recording, which is
        written, and leaves a video.

        Raises `Stopped`, `DataError` for a damaged video, `JobError` for a camera that is not
        there, `StoreError`.
        """
        with (
            tempfile.TemporaryDirectory(prefix="segadapt-video-") as folder,
            closing(self._open_counted(Path(folder))) as reader,
        ):
            expected = self._expected(reader)
            self._work.report(more=expected - 1)
            try:
                self._predict(reader, Path(folder))
            finally:
                self._work.writes.drop_all()
                self._work.report(more=self.frames - expected)

    def _open_counted(self, folder: Path) -> VideoReader:
        try:
            return self._open(folder)
        except (DataError, StoreError):
            self._work.report(done=1)
            raise

    def _open(self, folder: Path) -> VideoReader:
        source = self._item.source
        if self._item.kind == CAMERA:
            return VideoReader.of_camera(source)
        scheme, path = split_uri(source)
        if scheme == "file":
            return VideoReader.of_file(Path(path).expanduser(), source)
        address, mark, query = source.partition("?")  # of a presigned URL
        root, _, key = address.rpartition("/")
        local = folder / "video"
        self._work.stores.open(root).get_file(key + mark + query, local)
        return VideoReader.of_file(local, source)

    def _expected(self, reader: VideoReader) -> int:
        limit = self._work.max_frames if self._item.kind == CAMERA else None
        return max(1, limit or reader.num_frames or 1)

    def _predict(self, reader: VideoReader, folder: Path) -> None:
        kinds = self._work.wanted.of_videos()
        paths = {kind: folder / f"{kind}{VIDEO_ENDING}" for kind in kinds}
        self._videos = {kind: VideoWriter(path, reader.rate) for kind, path in paths.items()}
        with open_rows(folder / "rows.csv") as file:
            self._rows = writer_of(file)
            self._predict_frames(reader)
            self._work.writes.collect_all()
        for video in self._videos.values():
            video.close()
        for kind, path in paths.items():
            self._work.out.put_file(f"{kind}/{self._item.name}{VIDEO_ENDING}", path)
        self._work.record.add_file(folder / "rows.csv")

    def _predict_frames(self, reader: VideoReader) -> None:
        try:
            with closing(self._prepared(reader)) as frames:
                for chunk in self._work.together(frames):
                    self._work.check()
                    results = self._work.segmented([image for _, image in chunk])
                    for (frame, _), result in zip(chunk, results, strict=True):
                        job = partial(self._draw, frame, result)
                        self._work.writes.add(self._work.size_of(result), job, self._append)
        except Stopped:
            if self._item.kind != CAMERA:
                raise
            self._work.writes.collect_all()
            if not self.frames:
                raise

    def _prepared(self, reader: VideoReader) -> Generator[Prepared]:
        limit = self._work.max_frames if self._item.kind == CAMERA else None
        frames = islice(reader.frames(), limit)
        prepare = self._work.model.prepare
        images = ((frame, prepare(frame.pixels, self._item.source)) for frame in frames)
        return _ahead(images, self._work)

    def _draw(self, frame: Frame, result: Segmentation) -> _Drawn:
        """Write a frame's own files and draw its pictures, in a thread."""
        wanted, name = self._work.wanted, self._item.name
        own = wanted.encoded(result, wanted.of_frames(), frame_name(name, frame.number))
        for key, data in own:
            self._work.out.put(key, data)
        drawn = {kind: _drawing(kind)(result) for kind in wanted.of_videos()}
        row = shares_of(result, name, frame.number, frame.time_s)
        return _Drawn(row, frame.time_s, drawn)

    def _append(self, drawn: _Drawn) -> None:
        for kind, picture in drawn.pictures.items():
            self._videos[kind].add(picture, drawn.time_s)
        self._rows.writerow(drawn.row)
        self.frames += 1
        self._work.report(done=1)


def _drawing(kind: str) -> Callable[[Segmentation], Pixels]:
    frame = OUTPUTS[kind].frame
    assert frame is not None, kind
    return frame


def _ahead(frames: Iterator[Prepared], work: Work) -> Generator[Prepared]:
    """The frames in order, a few decoded ahead by a thread. Raises `Stopped`."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        coming = deque(pool.submit(next, frames, None) for _ in range(_AHEAD))
        try:
            while (found := work.result_of(coming.popleft())) is not None:
                coming.append(pool.submit(next, frames, None))
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
