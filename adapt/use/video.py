"""Videos and cameras through PyAV: frames (H, W, 3) uint8 RGB with their times, and back to H.264.

PyAV comes with the extra `video`. Frames that a file turns (a telephone held upright) are turned.
Written videos keep the frames' times, have an even height and width, the last row and column
repeated where needed, and no sound.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adapt.data.packed.codecs import Pixels
from adapt.data.writing.survey import LARGEST, as_text, too_large
from adapt.errors import DataError, JobError
from adapt.use.whole_videos import Reach
from storage.errors import StoreError

REPLACE_VIDEO = "replace the file, or convert it to MP4"

_TICKS_PER_S = 90_000
_QUALITY = {"crf": "18", "preset": "veryfast"}
_BT709 = 1


class CameraDriver(NamedTuple):
    """How the system's cameras are opened: FFmpeg's device, and the name of one."""

    device: str
    name: str


V4L2 = CameraDriver("v4l2", "/dev/video{}")
"""Cameras of Linux."""


class Frame(NamedTuple):
    """A frame (H, W, 3) uint8 RGB, its number from 0, and its time from the first one's."""

    number: int
    time_s: float
    pixels: Pixels


def require_av(name: str) -> Any:
    """PyAV. Raises `JobError`, which names the video, where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise JobError(
            f"{name}: expected the package av, which reads videos and cameras, got none installed",
            "pip install 'segadapt[video]'",
        ) from error
    return av


class VideoReader:
    """An open video or camera. `num_frames`: by the file's account, None where it has none;
    `rate`: frames a second."""

    def __init__(self, container: Any, name: str, is_file: bool = True) -> None:
        self._container, self._name, self._is_file = container, name, is_file
        if not container.streams.video:
            raise DataError(f"{name}: expected a video, got a file without pictures", REPLACE_VIDEO)
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        size_hw = (self._stream.height, self._stream.width)
        if too_large(size_hw):
            raise DataError(
                f"{name}: expected {LARGEST}, got frames of {as_text(size_hw)} pixels (HxW)",
                "convert it to a smaller one",
            )
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.num_frames = self._stream.frames or self._by_duration()

    @classmethod
    def of_file(cls, path: Path, name: str) -> "VideoReader":
        """Open a file. Raises `DataError` for what is no video."""
        av = require_av(name)
        with _faults(av, name):
            return cls(av.open(str(path)), name)

    @classmethod
    def of_camera(cls, index: str, driver: CameraDriver | None = None) -> "VideoReader":
        """Open a camera. Raises `JobError` where it is not there or refuses."""
        av = require_av(f"camera {index}")
        device, form = driver or V4L2
        where = form.format(index)
        try:
            return cls(av.open(where, format=device), f"camera {index}", is_file=False)
        except (av.FFmpegError, ValueError) as error:
            there = sorted(str(path) for path in Path("/dev").glob("video*"))
            reason = getattr(error, "strerror", None) or error
            raise JobError(
                f"camera {index}: expected a camera at {where}, got: {reason} (cameras here: "
                f"{', '.join(there) or 'none'})",
                "connect it, close other programs that use it, or name another index",
            ) from error

    def frames(self) -> Generator[Frame]:
        """All frames in their order. Raises `DataError` for a damaged video, at the first frame
        that is not whole, or behind the last one where the file has lost others."""
        first_s, number = 0.0, 0
        size_hw: tuple[int, int] | None = None
        for frame in self._decoded():
            time_s = float(number / self.rate) if frame.time is None else float(frame.time)
            first_s = time_s if number == 0 else first_s
            pixels = np.ascontiguousarray(_upright(frame))
            found_hw = (pixels.shape[0], pixels.shape[1])
            size_hw = size_hw or found_hw
            self._check_size(found_hw, size_hw, number)
            yield Frame(number, max(0.0, time_s - first_s), pixels)
            number += 1
        if not number:
            raise DataError(f"{self._name}: expected frames, got none", REPLACE_VIDEO)

    def close(self) -> None:
        """Close the file or the camera."""
        self._container.close()

    def _decoded(self) -> Generator[Any]:
        """PyAV's frames. Of a file, each is whole, and all that it states are there."""
        av, number = require_av(self._name), 0
        reach = Reach(self._container, self._stream, self.rate)
        try:
            for packet in self._container.demux():
                reach.take(packet)
                if self._is_file and reach.has_hole:
                    raise self._damaged(reach, number, "then a part of the file is lost")
                if packet.stream is not self._stream:
                    continue
                self._check_whole(packet, reach, number)
                for frame in packet.decode():
                    self._check_whole(frame, reach, number)
                    reach.show(frame.time)
                    yield frame
                    number += 1
        except av.FFmpegError as error:
            raise self._damaged(reach, number, f"then {error.strerror or error}") from error
        if number and self._is_file and reach.ends_early(number):
            raise self._damaged(reach, number, "it ends early")
        if number and self._is_file and reach.has_broken_units():
            raise self._damaged(reach, number, "a part of the file is damaged")

    def _check_whole(self, found: Any, reach: Reach, number: int) -> None:
        """Refuse a packet or a frame with damage; a camera continues after one."""
        if self._is_file and found.is_corrupt:
            raise self._damaged(reach, number, "the next one is damaged")

    def _damaged(self, reach: Reach, number: int, reason: str) -> DataError:
        stated = f"{reach.stated} frames" if reach.stated else "whole frames to its end"
        return DataError(
            f"{self._name}: corrupt video: expected {stated}, got {number}: {reason}", REPLACE_VIDEO
        )

    def _by_duration(self) -> int | None:
        duration = self._container.duration  # in microseconds
        return None if not duration or duration < 0 else round(duration / 1e6 * self.rate)

    def _check_size(self, found_hw: tuple[int, int], size_hw: tuple[int, int], number: int) -> None:
        if found_hw != size_hw:
            raise DataError(
                f"{self._name}: expected frames of one size, {as_text(size_hw)}, got "
                f"{as_text(found_hw)} (HxW) at frame {number}",
                "split the video where its size changes",
            )


def _upright(frame: Any) -> Pixels:
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, round(frame.rotation / 90) % 4)


class VideoWriter:
    """An MP4 with H.264 that is written frame by frame; `close` completes it. Raises
    `StoreError` where it cannot be written."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._av, self._path = require_av(path.name), path
        with self._written():
            self._container = self._av.open(str(path), "w", format="mp4")
        self._rate = rate.limit_denominator(_TICKS_PER_S // 2)
        self._stream: Any = None
        self._last = -1

    def add(self, pixels: Pixels, time_s: float) -> None:
        """Append a picture (H, W, 3) uint8 RGB; all have one size."""
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._new_stream(even)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=1)
        self._last = max(self._last + 1, round(time_s * _TICKS_PER_S))
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS_PER_S)
        with self._written():
            self._write(frame)

    def close(self) -> None:
        """Complete the file."""
        with self._written():
            if self._stream is not None:
                self._write(None)
            self._container.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Turns PyAV's errors inside into `StoreError`."""
        try:
            yield
        except self._av.FFmpegError as error:
            raise StoreError(
                f"{self._path}: the video cannot be written: {error.strerror or error}",
                "free space in the temporary folder (TMPDIR)",
            ) from error

    def _new_stream(self, pixels: Pixels) -> Any:
        stream = self._container.add_stream("libx264", rate=self._rate, options=_QUALITY)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS_PER_S)
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1
        return stream

    def _write(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


@contextmanager
def _faults(av: Any, name: str) -> Iterator[None]:
    """Turns PyAV's errors inside into `DataError` with the video's name."""
    try:
        yield
    except av.FFmpegError as error:
        raise DataError(
            f"{name}: corrupt video: {error.strerror or error}", REPLACE_VIDEO
        ) from error
