"""Videos and cameras: frames are predicted as images, times are kept, what is whole is written."""

import sys
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from adapt.errors import DataError, JobError
from adapt.use import recording, video, work
from adapt.use.video import CameraDriver, VideoReader, VideoWriter
from adapt.use.work import Progress
from storage.errors import StoreError
from storage.stores import Stores
from tests.use.conftest import files_in, network, predicted, shares_in, write_images
from tests.use.videos import IDENTITY, QUARTER_TURN, frames_of, read_video, write_video

FAKE_CAMERA = CameraDriver("lavfi", "testsrc=size=30x20:rate=200,select=gte(n\\,{})")
"""A camera of FFmpeg's own that never ends; its index is the number of its first frame."""


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Seven frames, at times that no rate explains."""
    times_s = [0, 0.1, 0.2, 0.5, 0.6, 1.2, 1.3]
    return write_video(tmp_path / "videos" / "drive.mov", frames_of(7), times_s)


def test_frames_are_predicted_as_images(drive: Path, tmp_path: Path) -> None:
    """To the last bit: shares, ids and soft maps equal those of the frames saved as PNG."""
    out, calls = tmp_path / "out", list[Progress]()
    kinds = "overlay,colours,ids,probabilities,entropy"
    summary = predicted([drive.parent], out, write=kinds, on_progress=calls.append)
    assert (summary.videos, summary.frames, summary.images) == (1, 7, 0)
    assert calls[-1] == Progress(7, 7, 0)
    frames = read_video(drive)
    for number, (_, pixels) in enumerate(frames):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{number:06d}.png")
    predicted([tmp_path / "frames"], tmp_path / "images", write=kinds)
    of_video, of_images = shares_in(out), shares_in(tmp_path / "images")
    assert [row.pop("name") for row in of_video] == ["drive"] * 7
    assert [row.pop("frame") for row in of_video] == [str(number) for number in range(7)]
    times = ["0.000", "0.100", "0.200", "0.500", "0.600", "1.200", "1.300"]
    assert [row.pop("time_s") for row in of_video] == times
    for row, other in zip(of_video, of_images, strict=True):
        assert row == {key: other[key] for key in row}
    assert len({tuple(row.values()) for row in of_video}) > 3, "frames differ"
    for number in range(7):
        for kind, ending in (("ids", "png"), ("probabilities", "npz")):
            own = out / kind / "drive" / f"{number:06d}.{ending}"
            image = tmp_path / "images" / kind / f"{number:06d}.{ending}"
            assert own.read_bytes() == image.read_bytes()


def test_videos_show_the_pictures_at_the_frames_times(drive: Path, tmp_path: Path) -> None:
    predicted([drive], tmp_path / "out", write="overlay,colours,entropy")
    assert files_in(tmp_path / "out") == {
        *("overlay/drive.mp4", "colours/drive.mp4", "entropy/drive.mp4", "shares.csv")
    }
    model, frames = network(), read_video(drive)
    for kind in ("overlay", "colours"):
        shown = read_video(tmp_path / "out" / kind / "drive.mp4")
        assert [time_s for time_s, _ in shown] == pytest.approx([one for one, _ in frames])
        for (_, pixels), (_, frame) in zip(shown, frames, strict=True):
            one = model.predict(frame)
            expected = one.overlay() if kind == "overlay" else one.colours
            assert pixels.shape == expected.shape
            assert np.abs(pixels.astype(float) - expected).mean() < 25, kind


def test_colours_survive_the_codec(tmp_path: Path) -> None:
    """Large areas to a few steps, also at odd sizes."""
    pixels = np.zeros((63, 65, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (128, 64, 128), (220, 20, 60)
    writer = VideoWriter(tmp_path / "a.mp4", video.Fraction(10))
    for time_s in (0.0, 0.0, 0.1):  # times that do not rise are moved by a tick
        writer.add(pixels, time_s)
    writer.close()
    shown = read_video(tmp_path / "a.mp4")
    assert len(shown) == 3 and shown[0][1].shape == (64, 66, 3)
    assert np.abs(shown[1][1][8:56, 4:28].astype(int) - (128, 64, 128)).max() < 6
    assert np.abs(shown[1][1][8:56, 36:60].astype(int) - (220, 20, 60)).max() < 6


def test_a_video_that_was_held_upright_is_turned(tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", frames_of(2))
    (_, lying), *_ = read_video(path)
    content = path.read_bytes()
    assert content.count(IDENTITY) >= 1
    head, tail = content.split(b"tkhd", 1)
    path.write_bytes(head + b"tkhd" + tail.replace(IDENTITY, QUARTER_TURN, 1))
    reader = VideoReader.of_file(path, "phone.mp4")
    (frame, *_) = reader.frames()
    reader.close()
    assert np.array_equal(frame.pixels, np.rot90(lying, -1))


def test_a_whole_video_is_skipped_and_a_stopped_one_starts_again(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_WAITING_BYTES", 1)  # no frame is far ahead of its picture
    stop = Event()

    def after_two(progress: Progress) -> None:
        if progress.done == 2:
            stop.set()

    out = tmp_path / "out"
    first = predicted([drive], out, write="overlay,ids", stop=stop, on_progress=after_two)
    assert first.stopped and first.videos == 0 and shares_in(out) == []
    assert not (out / "overlay").exists(), "a video appears whole"
    assert predicted([drive], out, write="overlay,ids").frames == 7
    again = predicted([drive], out, write="overlay,ids")
    assert (again.videos, again.skipped) == (0, 1) and len(shares_in(out)) == 7
    (out / "ids" / "drive" / "000003.png").unlink()
    assert predicted([drive], out, write="overlay,ids").videos == 1
    assert len(shares_in(out)) == 7


def test_damaged_videos_are_bad(drive: Path, tmp_path: Path) -> None:
    folder = drive.parent
    write_images(folder, ["a.png"])
    (folder / "junk.mp4").write_bytes(b"junk" * 100)
    (folder / "empty.avi").touch()
    calls = list[Progress]()
    summary = predicted([folder], tmp_path / "out", on_progress=calls.append)
    assert (summary.images, summary.videos) == (1, 1)
    bad = {Path(one.path).name: one.text for one in summary.bad}
    assert bad.keys() == {"junk.mp4", "empty.avi"}
    assert all(text.startswith("corrupt video: ") for text in bad.values())
    assert calls[-1].bad == 2 and calls[-1].done == calls[-1].total


def test_files_without_pictures_and_with_other_sizes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=48000)
        sound = av.AudioFrame(format="s16", layout="mono", samples=1024)
        sound.rate = 48000
        container.mux(stream.encode(sound))
    with pytest.raises(DataError, match="expected a video, got a file without pictures"):
        VideoReader.of_file(tmp_path / "sound.mp4", "sound.mp4")
    path = write_video(tmp_path / "a.mp4", frames_of(1))
    monkeypatch.setattr(video, "too_large", lambda size_hw: size_hw == (20, 30))
    with pytest.raises(DataError, match="got frames of 20x30 pixels"):
        VideoReader.of_file(path, "a.mp4")
    monkeypatch.undo()
    reader = VideoReader.of_file(path, "a.mp4")
    with pytest.raises(DataError, match=r"frames of one size, 20x30, got 20x31 \(HxW\) at frame 4"):
        reader._check_size((20, 31), (20, 30), 4)
    reader.close()


def test_a_video_of_a_store(drive: Path, s3_stores: Stores, s3_uri: str, tmp_path: Path) -> None:
    s3_stores.open(s3_uri).put_file("videos/drive.mov", drive)
    predicted([f"{s3_uri}/videos"], f"{s3_uri}/seen", stores=s3_stores, write="colours")
    predicted([drive], tmp_path / "here", write="colours")
    store = s3_stores.open(f"{s3_uri}/seen")
    assert store.get("shares.csv") == (tmp_path / "here" / "shares.csv").read_bytes()
    store.get_file("colours/drive.mp4", tmp_path / "stored.mp4")
    own, stored = tmp_path / "here" / "colours" / "drive.mp4", tmp_path / "stored.mp4"
    assert [time for time, _ in read_video(stored)] == [time for time, _ in read_video(own)]


def test_a_camera_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "V4L2", FAKE_CAMERA)
    out = tmp_path / "out"
    summary = predicted(["0"], out, write="overlay,ids", max_frames=5)
    assert (summary.videos, summary.frames, summary.stopped) == (1, 5, False)
    (film,) = (out / "overlay").glob("camera-0-*.mp4")
    assert len(read_video(film)) == 5 == len(list((out / "ids" / film.stem).iterdir()))
    assert [row["frame"] for row in shares_in(out)] == list("01234")


def test_a_stop_ends_a_recording_which_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after it is left."""
    monkeypatch.setattr(video, "V4L2", FAKE_CAMERA)
    stop = Event()

    def after_four(progress: Progress) -> None:
        if progress.done >= 4:
            stop.set()

    alone = predicted(["7"], tmp_path / "out", stop=stop, on_progress=after_four)
    assert alone.frames >= 4 and not alone.stopped
    (film,) = (tmp_path / "out" / "overlay").glob("camera-7-*.mp4")
    assert len(read_video(film)) == alone.frames == len(shares_in(tmp_path / "out"))
    stop.clear()
    both = predicted(["8", photos], tmp_path / "both", stop=stop, on_progress=after_four)
    assert both.stopped and both.videos == 1 and both.images == 0


def test_a_camera_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"camera 63: expected a camera at /dev/video63, got: No su"):
        predicted(["63"], tmp_path / "out")


def test_without_the_package_the_extra_is_named(
    drive: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    message = r"drive.mov: expected the package av, .* Fix: pip install 'segadapt\[video\]'"
    with pytest.raises(JobError, match=message):
        predicted([photos, drive], tmp_path / "out")
    assert predicted([photos], tmp_path / "out").images == 8


def test_a_video_that_cannot_be_written_ends_the_work(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "no folder" / "a.mp4", video.Fraction(10))
    with pytest.raises(StoreError, match=r"a.mp4: the video cannot be written: No such"):
        for frame in frames_of(60):
            writer.add(frame, 0.0)


def test_frames_are_held_in_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long video is decoded as it is predicted: 4 frames ahead, and those that are drawn."""
    path = write_video(tmp_path / "long.mp4", frames_of(60))
    monkeypatch.setattr(work, "_WAITING_BYTES", 3 * 20 * 30 * 20)
    decoded, most = [0], [0]
    own = VideoReader.frames

    def counted(self: VideoReader):  # type: ignore[no-untyped-def]
        for frame in own(self):
            decoded[0] += 1
            yield frame

    monkeypatch.setattr(VideoReader, "frames", counted)

    def held(progress: Progress) -> None:
        most[0] = max(most[0], decoded[0] - progress.done)

    predicted([path], tmp_path / "out", on_progress=held)
    assert decoded[0] == 60 and most[0] <= recording._AHEAD + 3 + 2
