"""Lists of names in every form that people and tools write; what fits two files fits none."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from adapt.data.datasets import DATASETS, RawSamples
from adapt.data.split_lists import FileNames, read_names
from adapt.errors import JobError

Listed = Callable[[str | bytes], RawSamples]
NAMES = ("a.png", "city1/a.png", "city1/b.png", "city2/b.png", "city2/my car.png", "t0.5.png")


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    """listed(content of val.txt) -> the samples of split val of a folder with `NAMES`."""
    for name in NAMES:
        for kind, mode in (("images", "RGB"), ("labels", "L")):
            path = tmp_path / "raw" / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (4, 3)).save(path)

    def find(content: str | bytes) -> RawSamples:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "raw" / "val.txt").write_bytes(data)
        return DATASETS["folders"].find(tmp_path / "raw", "val")

    return find


def keys(samples: RawSamples) -> list[str]:
    assert not samples.problems, samples.problems
    return [sample.key for sample in samples.samples]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("a.png", "a"),
        ("a", "a"),
        ("city1/a.png", "city1_a"),
        ("city1/a", "city1_a"),
        ("city1\\a.png", "city1_a"),
        (".\\city1\\a.png", "city1_a"),
        ("./city1/a.png", "city1_a"),
        ("images/city1/a.png", "city1_a"),
        ("raw/images/a.png", "a"),
        ("/data/set/images/city2/b.png", "city2_b"),
        ("C:\\data\\images\\city2\\b.png", "city2_b"),
        ("city1/b.png labels/city1/b.png", "city1_b"),
        ("city1/b.png\tlabels/city1/b.png", "city1_b"),
        ("city1/b.png,labels/city1/b.png", "city1_b"),
        ("city2/b.png  # blurred", "city2_b"),
        ("  city2/b.png  ", "city2_b"),
        ('"city2/my car.png"', "city2_my car"),
        ("city2/my car.png", "city2_my car"),
        ("my car.png", "city2_my car"),
        ("t0.5", "t0-5"),
        ("t0.5.png", "t0-5"),
        ("city1_b", "city1_b"),
    ],
)
def test_a_line_picks_the_file_that_it_names(line: str, key: str, listed: Listed) -> None:
    assert keys(listed(f"{line}\n")) == [key]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_every_system(encoding: str, end: str, listed: Listed) -> None:
    text = end.join(["# validation", "", "city1/a.png", "   ", "city2/b.png", "city1/a.png", ""])
    assert keys(listed(text.encode(encoding))) == ["city1_a", "city2_b"]


def test_images_that_the_list_does_not_name_are_counted(listed: Listed) -> None:
    samples = listed("a.png\n")
    assert samples.notes.as_json() == {"left_out": {"images that val.txt does not name": 5}}


def test_a_name_that_fits_two_files_is_refused(listed: Listed) -> None:
    samples = listed("a.png\nb.png\n")
    (problem,) = samples.problems
    assert str(problem).endswith(
        "val.txt, line 2: expected the name of one image, got 'b.png', which fits city1/b.png and "
        "city2/b.png"
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("city3/a.png", "got 'city3/a.png' (did you mean 'city"),
        ("data/a.png", "got 'data/a.png'"),
        ("city2/a.png", "got 'city2/a.png' (did you mean 'city"),
        ("zzz", "got 'zzz'"),
    ],
)
def test_a_name_without_file_is_refused(line: str, text: str, listed: Listed) -> None:
    (problem,) = listed(f"city1/a.png\n{line}\n").problems
    assert f"val.txt, line 2: expected an image of the raw folder, {text}" in str(problem)


def test_train_without_a_list_states_that_it_holds_the_images_of_others(
    listed: Listed, tmp_path: Path
) -> None:
    listed("a.png\ncity1/a.png\n")
    samples = DATASETS["folders"].find(tmp_path / "raw", "train")
    assert len(samples.samples) == len(NAMES)
    statement = "images that val.txt names, since there is no train.txt"
    assert samples.notes.as_json() == {"included": {statement: 2}}
    (tmp_path / "raw" / "train.txt").write_text("t0.5.png\n")
    assert not DATASETS["folders"].find(tmp_path / "raw", "train").notes.included


def test_of_a_long_line_the_beginning_is_shown(listed: Listed) -> None:
    for line in ("x" * 5000, "\x01" * 3000, "a.png" + " " * 3000 + "b"):
        for problem in listed(line).problems:
            assert len(problem.text) < 1000, problem.text
    assert "xxx'... " in f"{listed('x' * 5000).problems[0].text} "


def test_all_bad_lines_are_named(listed: Listed) -> None:
    assert len(listed("".join(f"x{number}.png\n" for number in range(30))).problems) == 30


def test_hints_are_quick_for_many_names(tmp_path: Path) -> None:
    files = {f"{number}": tmp_path / f"city/{number:06d}.png" for number in range(30_000)}
    names = FileNames(files, tmp_path)
    started_s = time.monotonic()
    assert names.near("town/029999.png") == " (did you mean 'city/029999.png'?)"
    assert names.near("0x.png") is not None and time.monotonic() - started_s < 5


@pytest.mark.parametrize("content", ["", "# nothing\n\n"])
def test_an_empty_list_is_refused(content: str, listed: Listed) -> None:
    (problem,) = listed(content).problems
    assert str(problem).endswith("val.txt: expected names of images, got an empty list")


def test_a_list_in_another_encoding_fits_file_names_in_it(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"caf\xe9.png\n")
    assert read_names(tmp_path / "list")[0].text == "caf\udce9.png"


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"list: cannot be read: No such file .*Fix: pass a text"):
        read_names(tmp_path / "list")
