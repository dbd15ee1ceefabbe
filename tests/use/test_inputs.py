"""Inputs by kind: which items they are, their names, their order, and what is refused."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import DataError, JobError
from adapt.use.inputs import Search, find_items
from adapt.use.items import Item
from storage.stores import Stores
from tests.use.conftest import write_images


def found(*inputs: object, out: object = "out", split: str | None = None) -> list[Item]:
    search = Search(Stores(), str(out), split, Path("/nonexistent"), Counter(), [])
    return find_items([str(one) for one in inputs], search)


def names(*inputs: object, **more: object) -> list[str]:
    return [item.name for item in found(*inputs, **more)]  # type: ignore[arg-type]


def test_a_folder_is_its_images_and_videos_below_it(photos: Path) -> None:
    (photos / "a" / "drive.MP4").touch()
    (photos / "notes.txt").touch()
    (photos / ".hidden.png").touch()
    search = Search(Stores(), "out", None, Path(), Counter(), [])
    items = find_items([str(photos)], search)
    assert [item.name for item in items] == [
        *("a/1", "a/3", "a/5", "a/7", "a/drive", "b/0", "b/2", "b/4", "b/6")
    ]
    assert [item.kind for item in items if item.kind != "image"] == ["video"]
    assert items[0].source == str(photos / "a" / "1.png") == items[0].image()
    assert search.left_out["files that are no images or videos (.txt)"] == 1
    assert sum(search.left_out.values()) == 2


def test_globs_and_files(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(photos / "a" / "1.png") == ["1"]
    assert names(photos / "*" / "[0-3].png") == ["a/1", "a/3", "b/0", "b/2"]
    assert names(photos / "**" / "7.png") == ["a/7"]
    assert names(photos / "a" / "?.png") == ["1", "3", "5", "7"]
    assert names(f"file://{photos}/b/*") == ["0", "2", "4", "6"]
    monkeypatch.chdir(photos)
    assert names("*/1.png") == ["a/1"] and names("a/[!1].png") == ["3", "5", "7"]
    write_images(photos, ["a[1].png"])
    assert names("a[1].png") == ["a[1]"], "a file of this name goes before the glob"
    assert names("a/1.png", "a", "./a/3.png") == ["1", "3", "5", "7"]


def test_an_item_is_there_once(photos: Path) -> None:
    assert names(photos / "a" / "1.png", photos / "a" / "*", photos / "a") == ["1", "3", "5", "7"]


def test_two_of_one_name_keep_their_endings(photos: Path) -> None:
    write_images(photos, ["a/1.jpg", "a/2.webp"])
    assert names(photos / "a") == ["1.jpg", "1.png", "2", "3", "5", "7"]
    other = write_images(photos.parent / "other", ["a/1.png"])
    with pytest.raises(JobError, match=r"other/a/1.png: expected a name of its own .* got a/1.*"):
        found(photos, other)


@pytest.mark.parametrize("name", ["drive/000000.png", "drive/deep/a.png", "drive/b.mp4"])
def test_nothing_has_a_name_among_a_video_s_frames(name: str, tmp_path: Path) -> None:
    """Else both write the file of one frame."""
    (tmp_path / name).parent.mkdir(parents=True)
    for path in (name, "drive.mp4", "driven.mp4"):
        (tmp_path / path).touch()
    own = name.rpartition(".")[0]
    with pytest.raises(JobError) as caught:
        found(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / name}: expected a name of its own for its outputs, got {own} in the folder "
        f"of the frames of {tmp_path / 'drive.mp4'}. Fix: predict the video and this folder apart, "
        "each with its own --out."
    )
    (tmp_path / "drive.mp4").rename(tmp_path / "drive.png")
    assert names(tmp_path) == [own, "drive", "driven"]


def test_a_packed_split_by_its_folder(tiny_uri: str) -> None:
    with pytest.raises(DataError, match=r"one packed split, got train, val. Fix: .*--split train"):
        found(tiny_uri)
    items = found(tiny_uri, split="val")
    assert sorted(item.name for item in items) == ["000", "001", "002", "003", "004"]
    assert items[0].source.endswith(f".tar: {items[0].name}") and "/val/" in items[0].source
    pixels = items[0].image()
    assert isinstance(pixels, np.ndarray) and pixels.shape == (48, 64, 3)
    with pytest.raises(DataError, match="missing"):
        found(tiny_uri, split="missing")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("absent", JobError, "absent: expected a picture, .* got no file and no folder"),
        ("link.png", JobError, "link.png: expected a picture, .* got a link to what is not there"),
        ("pipe.png", JobError, "pipe.png: expected a picture, .* got a device, pipe or socket"),
        ("absent/*.png", DataError, "expected images or videos, got none"),
        ("empty", DataError, r"expected images or videos, got none, but .*\(.txt\) \(1\)"),
    ],
)
def test_what_is_not_there_is_refused(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    (tmp_path / "link.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(error, match=message):
        found(tmp_path / text)


def test_an_empty_name_is_no_folder() -> None:
    """As of a variable of the shell that is not set: not the folder that the shell is in."""
    with pytest.raises(JobError, match=r"INPUT: expected a picture, .* got none. Fix: write `.`"):
        found("")


def test_outputs_are_no_inputs(photos: Path) -> None:
    write_images(photos / "seen", ["overlay/a/1.png"])
    assert len(names(photos, out=photos / "seen")) == 8
    for text, out in ((photos, photos), (photos / "seen" / "overlay", photos / "seen")):
        with pytest.raises(JobError, match="--out: expected another folder than the input's"):
            found(text, out=out)


def test_broken_links_are_faults(photos: Path) -> None:
    (photos / "link.png").symlink_to("nowhere.png")
    search = Search(Stores(), "out", None, Path(), Counter(), [])
    assert len(find_items([str(photos)], search)) == 8
    assert [problem.text for problem in search.problems] == [
        "a link to nowhere.png, which is not there"
    ]


def test_a_number_is_a_camera_unless_a_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (camera,) = found("0")
    assert camera.kind == "camera" and camera.name.startswith("camera-0-20")
    write_images(tmp_path / "0", ["a.png"])
    assert names("0") == ["a"]
