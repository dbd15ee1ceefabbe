"""pack knows every problem of every file before it writes, reads colours, and states what it leaves
out.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.datasets import FIX_LABEL
from tests.cli.conftest import refused
from tests.commands import Ended, call
from tests.conftest import write_raw_folders

ROAD, CAR, VOID = (128, 64, 128), (0, 0, 142), (0, 0, 0)


def pack(folder: Path, *more: object) -> Ended:
    return call("pack", "folders", "raw", "packed", "--name", "mine", *more, folder=folder)


def answer(ended: Ended) -> dict[str, object]:
    found: dict[str, object] = json.loads(ended.out)
    return found


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A raw folder of 24 samples, in which 20 have a fault, one of each kind and more."""
    raw = tmp_path / "raw"
    write_raw_folders(raw, 24, seed=1)
    images, labels = raw / "images", raw / "labels"
    whole = (images / "000.png").read_bytes()
    (images / "000.png").write_bytes(whole[: len(whole) // 2])
    (images / "001.png").write_bytes(b"")
    (labels / "002.png").unlink()
    (images / "003.png").unlink()
    Image.open(labels / "004.png").save(labels / "004.jpg", quality=90)
    (labels / "004.png").unlink()
    Image.new("L", (3, 3)).save(labels / "005.png")
    Image.new("RGB", Image.open(labels / "006.png").size).save(labels / "006.png")
    Image.fromarray(np.full((4, 4), 300, np.uint16)).resize(
        Image.open(labels / "007.png").size
    ).save(labels / "007.png")
    (images / "008.png").rename(images / os.fsdecode(b"\xff8.png"))
    (images / "009.png").rename(images / ("n" * 120 + ".png"))
    (images / "010.png").rename(images / "a\\b.png")
    (images / "011.png").unlink()
    (images / "011.png").symlink_to("nowhere.png")
    for number in range(12, 20):
        (images / f"{number:03d}.png").write_bytes(b"junk")
    return tmp_path


FAULTS = {
    "images/000.png": "corrupt image",
    "images/001.png": "corrupt image: the file is empty",
    "images/002.png": "image without label",
    "labels/003.png": "label without image",
    "labels/004.jpg": "expected a lossless label, got JPEG",
    "labels/005.png": "the label is 3x3",
    "labels/006.png": "expected a single-channel PNG of ids, got mode RGB",
    "labels/007.png": "expected ids from 0 to 255 in the label, got 300",
    r"images/\xff8.png": "expected a name in UTF-8",
    "images/" + "n" * 120 + ".png": "expected a key of at most 92 bytes",
    r"images/a\b.png": "expected a name without backslashes",
    "images/011.png": "a link to nowhere.png, which is not there",
    **{f"images/{number:03d}.png": "corrupt image: no image" for number in range(12, 20)},
    **{f"labels/{number:03d}.png": "label without image" for number in (8, 9, 10)},
}


def test_every_problem_of_every_file_is_known_before_the_first_shard(bad: Path) -> None:
    ended = pack(bad, "--json")
    problems = answer(ended)["problems"]
    assert isinstance(problems, list) and ended.code == 4
    found = {one["path"].removeprefix("raw/"): one["text"] for one in problems}
    assert found.keys() == FAULTS.keys()
    assert all(found[path].startswith(text) for path, text in FAULTS.items()), found
    assert (
        f"{len(FAULTS)} bad files" in ended.err and f"... and {len(FAULTS) - 10} more" in ended.err
    )
    assert not (bad / "packed").exists()


def test_a_skip_file_leaves_the_bad_ones_out(bad: Path) -> None:
    problems = answer(pack(bad, "--json"))["problems"]
    assert isinstance(problems, list)
    names = "\r\n".join(dict.fromkeys(one["key"] for one in problems if one["key"].isprintable()))
    (bad / "skip.txt").write_bytes(
        b"# bad ones\r\n" + names.encode("utf-8") + b"\r\n\xff8.png\r\nnever-there.png"
    )
    ended = pack(bad, "--skip-file", "skip.txt", "--json")
    assert ended.code == 0, ended.err
    assert answer(ended)["num_samples"] == 4
    assert answer(ended)["left_out"] == {"samples to skip": 23}
    assert answer(ended)["unused"] == {"names to skip that fit no file": 1}
    assert "left out: samples to skip (23)" in ended.err


def test_a_slice_decodes_its_own_samples(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    more = ("--shard-mb", "0.03", "--slice")
    assert pack(tmp_path, *more, "0/2").code == 0
    records = [json.loads(path.read_text()) for path in tmp_path.glob("packed/train/*.json")]
    packed = {row[0] for record in records for row in record["rows"]}
    (mine, *_), (other, *_) = sorted(packed), sorted({f"{n:03d}" for n in range(14)} - packed)
    for key in (mine, other):  # the sizes of files stay, so the plan is the same
        path = tmp_path / "raw" / "images" / f"{key}.png"
        path.write_bytes(path.read_bytes()[:900].ljust(path.stat().st_size, b"\0"))
    assert pack(tmp_path, *more, "0/2").code == 0
    refused(pack(tmp_path, *more, "1/2"), 4, f"images/{other}.png: corrupt image", "1 bad file")


def test_overwriting_with_bad_files_keeps_the_old_split(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 3, seed=1)
    assert pack(tmp_path).code == 0
    image = tmp_path / "raw" / "images" / "001.png"
    image.write_bytes(image.read_bytes()[:900])
    refused(pack(tmp_path, "--overwrite"), 4, "001.png: corrupt image")
    assert call("verify", "packed", folder=tmp_path).code == 0


@pytest.mark.parametrize("name", ["[/x]", "[bold]", "a[1]"])
def test_brackets_in_names_are_no_markup(name: str, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / name, 1, seed=1)
    packed = call("pack", "folders", name, f"to-{name}", folder=tmp_path)
    assert packed.code == 0 and f"to-{name}/train: 1 sample" in packed.err, packed.err
    verified = call("verify", f"to-{name}", folder=tmp_path)
    assert verified.code == 0 and f"to-{name}: 1 sample" in verified.err, verified.err
    shown = call("inspect", f"to-{name}", folder=tmp_path)
    assert shown.code == 0 and f"to-{name}/train" in shown.out, shown.err


def test_pairs_only_states_what_it_left_out(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    (tmp_path / "raw" / "labels" / "001.png").unlink()
    (tmp_path / "raw" / "images" / "002.png").unlink()
    refused(pack(tmp_path), 4, "2 bad files", "--pairs-only")
    ended = pack(tmp_path, "--pairs-only")
    assert ended.code == 0 and "2 samples in 1 shard" in ended.err
    assert "left out: images without label (1)" in ended.err


@pytest.fixture
def coloured(tmp_path: Path) -> Callable[..., Path]:
    """coloured(*colours) -> a folder with one sample, whose label has a column of each colour."""

    def make(*colours: tuple[int, int, int]) -> Path:
        pixels = np.array([colours] * 4, np.uint8)
        for kind in ("images", "labels"):
            (tmp_path / "raw" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "raw" / kind / "a.png")
        (tmp_path / "classes.csv").write_text("name,r,g,b,id\nroad,128,64,128,3\ncar,0,0,142,9\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("raw", "uri"),
    [
        ("raw", "raw"),
        ("raw", "raw/packed"),
        ("raw", "raw/images"),
        ("raw", "."),
        ("raw", "link"),
        ("link", "./x/../raw/train"),
    ],
)
def test_the_packed_folder_is_apart_from_the_raw_one(raw: str, uri: str, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    (tmp_path / "link").symlink_to("raw")
    before = sorted(tmp_path.rglob("*"))
    ended = call("pack", "folders", raw, uri, folder=tmp_path)
    refused(ended, 2, "URI: expected a folder apart from the raw folder", "beside the raw folder")
    assert sorted(tmp_path.rglob("*")) == before
    assert call("pack", "folders", raw, "raw-packed", folder=tmp_path).code == 0


def test_colour_labels_without_a_table_name_the_way(coloured: Callable[..., Path]) -> None:
    refused(pack(coloured(ROAD, CAR)), 4, "got mode RGB", "--colours SPEC or TABLE")


def test_colours_by_a_table(coloured: Callable[..., Path]) -> None:
    ended = pack(coloured(ROAD, CAR, CAR), "--colours", "classes.csv", "--json")
    assert answer(ended)["id_pixels"] == {"3": 4, "9": 8}


def test_colours_by_a_job_spec(spec: Path, coloured: Callable[..., Path]) -> None:
    folder = coloured((0, 90, 200), (180, 90, 200))
    ended = call(
        *("pack", "folders", "raw", "packed", "--name", "tiny", "--colours", spec, "--json"),
        folder=folder,
    )
    assert answer(ended)["id_pixels"] == {"0": 4, "3": 4}


def test_colours_by_a_label_space(coloured: Callable[..., Path]) -> None:
    more = ("--name", "cityscapes", "--colours", "cityscapes19", "--classes", "cityscapes19")
    ended = pack(coloured(ROAD, CAR), *more, "--json")
    assert answer(ended)["id_pixels"] == {"0": 4, "13": 4}


def test_unknown_colours_are_counted_over_all_files(coloured: Callable[..., Path]) -> None:
    folder = coloured(ROAD, VOID, (127, 64, 128))
    for kind in ("images", "labels"):
        path = folder / "raw" / kind / "a.png"
        (folder / "raw" / kind / "b.png").write_bytes(path.read_bytes())
    ended = pack(folder, "--colours", "classes.csv", "--json")
    assert ended.code == 4 and not (folder / "packed").exists()
    assert "unknown colour (0, 0, 0): 8 pixels in 2 files, nearest 'car' (0, 0, 142)" in ended.err
    assert answer(ended)["unknown_colours"] == [
        {"colour": [0, 0, 0], "pixels": 8, "files": 2, "nearest": "'car' (0, 0, 142)"},
        {"colour": [127, 64, 128], "pixels": 8, "files": 2, "nearest": "'road' (128, 64, 128)"},
    ]


def test_a_colour_to_ignore_is_255(coloured: Callable[..., Path]) -> None:
    folder = coloured(ROAD, VOID)
    ended = pack(folder, "--colours", "classes.csv", "--ignore-colour", "0,0,0", "--json")
    assert answer(ended)["id_pixels"] == {"3": 4, "255": 4}
    refused(pack(folder, "--ignore-colour", "0,0,0"), 2, "--ignore-colour: expected --colours")


def test_another_table_is_another_packing(coloured: Callable[..., Path]) -> None:
    folder = coloured(ROAD, CAR)
    assert pack(folder, "--colours", "classes.csv").code == 0
    assert pack(folder, "--colours", "classes.csv").code == 0
    (folder / "classes.csv").write_text("name,r,g,b,id\nroad,128,64,128,4\ncar,0,0,142,9\n")
    refused(pack(folder, "--colours", "classes.csv"), 2, "got another", "colours")


def test_what_is_converted_is_stated(tmp_path: Path) -> None:
    (tmp_path / "raw" / "images").mkdir(parents=True)
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    Image.fromarray(deep).save(tmp_path / "raw" / "images" / "a.png")
    ended = pack(tmp_path, "--json")
    statement = "images of 16 bits, to 8: the high byte is kept"
    assert f"converted: {statement} (1)" in ended.err
    assert answer(ended)["converted"] == {statement: 1}


def test_ids_that_a_layout_does_not_know_are_named_for_every_file(tmp_path: Path) -> None:
    for kind, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / "raw" / kind).mkdir(parents=True)
        for name in ("a", "b"):
            colour = 77 if mode == "L" else (1, 2, 3)
            Image.new(mode, (8, 6), colour).save(tmp_path / "raw" / kind / f"{name}.png")
    ended = call("pack", "gta5", "raw", "packed", folder=tmp_path)
    text = "expected ids from 0 to 34 in the label, got 77"
    refused(ended, 4, "2 bad files", f"labels/a.png: {text}", f"labels/b.png: {text}")
    assert FIX_LABEL in ended.err


def unnamed(folder: Path, *more: object) -> Ended:
    return call("pack", "folders", "raw", "packed", *more, folder=folder)


@pytest.mark.parametrize("option", ["--colours", "--classes"])
@pytest.mark.parametrize(
    ("more", "got"),
    [((), "got none, but layout 'folders'"), (("--name", "minne"), "got 'minne'; did you mean")],
)
def test_classes_need_the_datasets_name(
    option: str, more: tuple[str, ...], got: str, spec: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(spec.read_text().replace("tiny", "mine"))
    write_raw_folders(tmp_path / "raw", 1, seed=1)
    ended = unnamed(tmp_path, option, "mine.yaml", *more)
    refused(ended, 2, "--name: expected a dataset that the classes have ids for (mine), ", got)
    assert "Fix: add --name mine." in ended.err


def test_images_without_labels_are_said_to_be_so(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    assert "without labels" not in unnamed(tmp_path, "--split", "train").err
    shutil.rmtree(tmp_path / "raw" / "labels")
    ended = unnamed(tmp_path, "--overwrite")
    assert ended.code == 0
    assert "packed 2 images without labels, as there are none; training needs labels" in ended.err
    asked = unnamed(tmp_path, "--overwrite", "--unlabelled")
    assert asked.code == 0 and "as there are none" not in asked.err


def test_bad_names_that_a_list_does_not_name_do_not_matter(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    images = tmp_path / "raw" / "images"
    (images / os.fsdecode(b"\xff.png")).write_bytes(b"")
    (images / ("n" * 120 + ".png")).write_bytes(b"")
    (images / "sub").mkdir()
    (images / "sub" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "raw" / "val.txt").write_text("000.png\n001.png\n")
    ended = unnamed(tmp_path, "--split", "val", "--json")
    assert ended.code == 0, ended.err
    left_out = answer(ended)["left_out"]
    assert left_out == {
        "files with faults that val.txt does not name": 3,
        "images that val.txt does not name": 2,
    }
    assert "left out: files with faults that val.txt does not name (3)" in ended.err
    for line in ("gone.png", "sub/gone.png", "images/sub/gone.png", "sub/gone"):
        (tmp_path / "raw" / "val.txt").write_text(f"000.png\n{line}\n")
        ended = unnamed(tmp_path, "--split", "val", "--overwrite")
        refused(ended, 4, "gone.png: a link to nowhere.png, which is not there")
