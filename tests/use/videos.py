"""Small videos for tests, and how they are read again."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def matrix(*parts: int) -> bytes:
    """A matrix in the head of a track of an MP4."""
    return b"".join(part.to_bytes(4, "big", signed=True) for part in parts)


ONE = 1 << 16
IDENTITY = matrix(ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
QUARTER_TURN = matrix(0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)
"""As it is, and a quarter turn clockwise."""


_PIXELS = {"mjpeg": "yuvj420p"}
"""Of codecs that refuse the usual ones."""


def noise_of(count: int, size_hw: tuple[int, int] = (240, 320)) -> list[np.ndarray]:
    """Frames that compression leaves large."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size_hw, 3), np.uint8) for _ in range(count)]


def frames_of(count: int, size_hw: tuple[int, int] = (20, 30), seed: int = 0) -> list[np.ndarray]:
    """Frames of few colours in large blocks, which compression changes little."""
    random = np.random.default_rng(seed)
    height, width = size_hw
    blocks = random.integers(0, 256, (count, -(-height // 5), -(-width // 5), 3), np.uint8)
    return [np.kron(one, np.ones((5, 5, 1), np.uint8))[:height, :width] for one in blocks]


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    times_s: Sequence[float] | None = None,
    codec: str = "libx264",
    gop: int | None = None,
    **muxing: str,
) -> Path:
    """A video of frames (H, W, 3), ten a second, or at times of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=muxing) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = (
            *frames[0].shape[:2],
            _PIXELS.get(codec, "yuv420p"),
        )
        ticks = 1000 if codec == "libx264" else 10
        stream.codec_context.time_base = Fraction(1, ticks)
        stream.codec_context.gop_size = gop or stream.codec_context.gop_size
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            time_s = number / 10 if times_s is None else times_s[number]
            frame.pts, frame.time_base = round(ticks * time_s), Fraction(1, ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_video(path: Path) -> list[tuple[float, np.ndarray]]:
    """Times in seconds and frames (H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        return [
            (float(frame.time), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
