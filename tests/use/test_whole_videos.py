"""Videos that have lost frames are refused with their count; healthy ones of any container are read
whole, at constant and at varying rates."""

from pathlib import Path

import av
import pytest

from adapt.errors import DataError
from adapt.use.container_ends import ends_within_a_unit
from adapt.use.container_units import has_broken_units
from adapt.use.video import VideoReader
from tests.use.conftest import files_in, predicted, shares_in
from tests.use.videos import frames_of, noise_of, write_video

STEADY = [number / 10 for number in range(20)]
PAUSES = [0.0, 0.1, 0.2, 0.5, 0.6, 1.2, 1.3, 1.4, 3.0, 3.1, 3.2, 6.0]
FIXES = ". Fix: replace the file, or convert it to MP4."


def count(path: Path) -> int:
    """The number of a file's frames."""
    reader = VideoReader.of_file(path, path.name)
    try:
        return sum(1 for _ in reader.frames())
    finally:
        reader.close()


def refused(path: Path, content: bytes) -> str:
    """The message about a file of this content."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        count(path)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("times_s", [STEADY, PAUSES, [one + 3 for one in STEADY]])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((f"a.{ending}", "libx264") for ending in ("mp4", "mov", "mkv", "ts", "m2ts", "flv")),
        *(("a.avi", "mpeg4"), ("a.mkv", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.wmv", "wmv2")),
        *(("a.3gp", "mpeg4"), ("a.webm", "libvpx"), ("a.ogv", "libvpx"), ("a.mkv", "mjpeg")),
        *(("a.avi", "mjpeg"), ("a.wmv", "mjpeg")),
    ],
)
def test_healthy_videos_are_whole(
    name: str, codec: str, times_s: list[float], tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, frames_of(len(times_s), (64, 96)), times_s, codec)
    assert count(path) == len(times_s)


def test_what_an_edit_list_cuts_off_is_not_missed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of(20), [one - 0.55 for one in STEADY], gop=5)
    reader = VideoReader.of_file(path, "a.mp4")
    assert reader.num_frames == 20
    assert sum(1 for _ in reader.frames()) == 14
    reader.close()


@pytest.mark.parametrize("flags", ["frag_keyframe", "frag_keyframe+empty_moov", "dash"])
def test_fragments_are_whole(flags: str, tmp_path: Path) -> None:
    assert count(write_video(tmp_path / "a.mp4", frames_of(20), gop=5, movflags=flags)) == 20


def test_a_live_recording_states_no_length(tmp_path: Path) -> None:
    assert count(write_video(tmp_path / "a.mkv", frames_of(20), live="1")) == 20


@pytest.mark.parametrize(
    ("name", "codec", "stated"),
    [
        *(("a.mp4", "libx264", "20"), ("a.mkv", "libx264", "about 20")),
        *(("a.mkv", "mpeg4", "about 20"), ("a.webm", "libvpx", "about 20")),
        *(("a.avi", "mpeg4", "about 20"), ("a.flv", "flv", "about 20")),
    ],
)
def test_a_cut_video_is_refused(name: str, codec: str, stated: str, tmp_path: Path) -> None:
    path = tmp_path / name
    more = {"movflags": "faststart"} if name == "a.mp4" else {}
    content = write_video(path, frames_of(20, (64, 96)), codec=codec, **more).read_bytes()
    for part in (0.5, 0.8):
        message = refused(path, content[: int(len(content) * part)])
        assert message.startswith(f"{name}: corrupt video: expected {stated} frames, got ")
        assert message.endswith((f": it ends early{FIXES}", f": the next one is damaged{FIXES}"))


def test_the_last_frame_of_an_mp4_is_missed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames_of(20), codec="mpeg4", movflags="faststart")
    with av.open(str(path)) as container:
        *_, last = (packet.pos for packet in container.demux(video=0) if packet.size)
    message = refused(path, path.read_bytes()[:last])
    assert message == (f"a.mp4: corrupt video: expected 20 frames, got 19: it ends early{FIXES}")


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_hole_is_refused(name: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / name
    content = write_video(path, frames_of(20, (64, 96)), codec=codec).read_bytes()
    third = len(content) // 3
    message = refused(path, content[:third] + bytes(third) + content[2 * third :])
    assert f"{name}: corrupt video: expected " in message and ", got " in message


def test_a_live_recording_of_windows_media_states_no_size(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.wmv", frames_of(20, (64, 96)), codec="mjpeg")
    content = bytearray(path.read_bytes())
    properties = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    path.write_bytes(content[: len(content) // 2])
    assert ends_within_a_unit("asf", path)
    content[properties + 88] |= 1
    path.write_bytes(content[: len(content) // 2])
    assert not ends_within_a_unit("asf", path)
    assert not ends_within_a_unit("matroska", path)


LARGE = [("a.mkv", "mjpeg"), ("a.webm", "libvpx"), ("a.wmv", "wmv2"), ("a.avi", "mjpeg")]
"""Containers behind whose holes FFmpeg goes on, without a word."""


@pytest.mark.parametrize(("name", "codec"), LARGE)
def test_a_hole_that_ffmpeg_passes_over_is_refused(name: str, codec: str, tmp_path: Path) -> None:
    """Frames of many bytes; where none is lost, many bytes between packets are no damage."""
    path = write_video(tmp_path / name, noise_of(24), codec=codec, gop=4)
    assert count(path) == 24
    content, hole = path.read_bytes(), 200_000
    for at in (len(content) // 4, len(content) // 2):
        message = refused(path, content[:at] + bytes(hole) + content[at + hole :])
        assert f"{name}: corrupt video: expected about 24 frames, got " in message
        assert "then a part of the file is lost" in message or "it ends early" in message


SMALL: list[tuple[str, str, dict[str, str], int]] = [
    ("a.mkv", "mjpeg", {}, 64),
    ("a.mkv", "mpeg4", {"live": "1"}, 64),
    ("a.mkv", "mjpeg", {"write_crc32": "0"}, 4096),
    ("a.webm", "libvpx", {"live": "1"}, 4096),
    ("a.flv", "flv", {}, 4096),
    ("a.wmv", "mjpeg", {}, 4096),
]
"""Containers, and the bytes of a hole that shows: any within a checksum, else a unit's."""


@pytest.mark.parametrize(("name", "codec", "muxing", "hole"), SMALL)
def test_small_holes_and_cuts_are_refused(
    name: str, codec: str, muxing: dict[str, str], hole: int, tmp_path: Path
) -> None:
    path = write_video(tmp_path / name, frames_of(20, (64, 96)), codec=codec, gop=5, **muxing)
    assert count(path) == 20
    content = path.read_bytes()
    for at in range(len(content) // 4, len(content) - hole, len(content) // 4):
        message = refused(path, content[:at] + bytes(hole) + content[at + hole :])
        assert message.startswith(f"{name}: corrupt video: expected ")
    if not name.endswith(".wmv"):
        for part in (0.5, 0.8):
            assert "corrupt video" in refused(path, content[: int(len(content) * part)])


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "dash"])
def test_a_fragment_whose_header_is_lost_or_that_is_cut_is_refused(
    flags: str, tmp_path: Path
) -> None:
    """Also the last one, of few bytes, and all but what others append."""
    path = write_video(tmp_path / "a.mp4", frames_of(40), gop=5, movflags=flags)
    content = path.read_bytes()
    starts = [at for at in range(len(content)) if content.startswith(b"moof", at)]
    for at in (starts[2], starts[-2]):
        assert has_broken_units("mov", with_hole(path, content, at - 4, 12))
        refused(path, path.read_bytes())
    path.write_bytes(content[: starts[-1] + 200])
    assert has_broken_units("mov", path)
    path.write_bytes(content + b"note" * 5)
    assert count(path) == 40


def with_hole(path: Path, content: bytes, at: int, length: int) -> Path:
    path.write_bytes(content[:at] + bytes(length) + content[at + length :])
    return path


@pytest.mark.parametrize("flags", ["frag_keyframe", "frag_keyframe+empty_moov", "dash"])
def test_a_hole_in_fragments_is_refused(flags: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    content = write_video(path, noise_of(24), gop=4, movflags=flags).read_bytes()
    assert count(path) == 24
    at = content.index(b"moof", len(content) // 2)
    message = refused(path, content[: at - 8] + bytes(1000) + content[at + 992 :])
    assert "a.mp4: corrupt video: expected " in message


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.ts", "mpeg2video"), ("a.m2ts", "libx264"), ("a.ogv", "libvpx"), ("a.wmv", "mjpeg")],
)
def test_a_cut_within_a_unit_is_refused_where_no_length_is_stated(
    name: str, codec: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    content = write_video(path, frames_of(20, (64, 96)), codec=codec).read_bytes()
    for part in (0.4, 0.6, 0.8):
        message = refused(path, content[: int(len(content) * part) | 1])  # units are even
        assert message.startswith(f"{name}: corrupt video: expected whole frames to its end, got")


@pytest.mark.parametrize("name", ["a.ts", "a.ogv"])
def test_what_others_append_is_no_damage(name: str, tmp_path: Path) -> None:
    codec = {"a.ts": "libx264", "a.ogv": "libvpx"}[name]
    path = write_video(tmp_path / name, frames_of(20, (64, 96)), codec=codec)
    path.write_bytes(path.read_bytes() + b"note" * 5)
    assert count(path) == 20


@pytest.mark.slow
def test_a_damaged_video_is_bad_and_its_repair_is_predicted(tmp_path: Path) -> None:
    """Its frames' own files stay, as after a stop; no video and no line appears of it."""
    path, out = tmp_path / "a.mkv", tmp_path / "out"
    whole = write_video(path, frames_of(20, (64, 96)), codec="mpeg4").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        summary = predicted([path], out, write="overlay,ids")
        assert (summary.videos, summary.skipped, len(summary.bad)) == (0, 0, 1)
        assert summary.bad[0].text.startswith("corrupt video: expected about 20 frames, got ")
        assert shares_in(out) == [] and not (out / "overlay").exists()
    path.write_bytes(whole)
    summary = predicted([path], out, write="overlay,ids")
    assert (summary.frames, summary.bad) == (20, []) and len(shares_in(out)) == 20
    assert len(files_in(out)) == 22
