"""All that is in a raw folder is in the pack, is refused by name, or is counted as left out."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from adapt.data.datasets import DATASETS, RawSamples
from adapt.data.found_files import MAX_KEY_BYTES
from adapt.errors import DataError, JobError

FOLDERS = DATASETS["folders"]
HIDDEN = "hidden files or folders, such as .DS_Store and ._a.png"


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Path]:
    """raw(*names) -> a raw folder with an image and a label of each name."""

    def make(*names: str) -> Path:
        for name in names:
            for kind, mode in (("images", "RGB"), ("labels", "L")):
                path = tmp_path / "raw" / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new(mode, (4, 3)).save(path, "PNG")
        return tmp_path / "raw"

    return make


def found(raw_dir: Path, split: str = "train", **options: object) -> RawSamples:
    return FOLDERS.find(raw_dir, split, **options)  # type: ignore[arg-type]


def keys(samples: RawSamples) -> list[str]:
    return [sample.key for sample in samples.samples]


def faults(samples: RawSamples, raw_dir: Path) -> list[str]:
    return [str(problem).removeprefix(f"{raw_dir}/") for problem in samples.problems]


def test_links_to_folders_and_files_are_followed(raw: Callable[..., Path], tmp_path: Path) -> None:
    raw_dir = raw("a.png", "city/b.png")
    for kind in ("images", "labels"):
        (raw_dir / kind / "city").rename(tmp_path / f"{kind}-elsewhere")
        (raw_dir / kind / "city").symlink_to(tmp_path / f"{kind}-elsewhere")
        (raw_dir / kind / "c.png").symlink_to(raw_dir / kind / "a.png")
    assert keys(found(raw_dir)) == ["a", "c", "city_b"] and not found(raw_dir).problems


def test_the_raw_folder_s_own_folders_may_be_links(
    raw: Callable[..., Path], tmp_path: Path
) -> None:
    raw_dir = raw("a.png")
    for kind in ("images", "labels"):
        (raw_dir / kind).rename(tmp_path / kind)
        (raw_dir / kind).symlink_to(tmp_path / kind)
    assert keys(found(raw_dir)) == ["a"]


def test_a_link_to_a_folder_above_is_not_followed(raw: Callable[..., Path]) -> None:
    raw_dir = raw("city/a.png")
    (raw_dir / "images" / "city" / "again").symlink_to(raw_dir / "images")
    (raw_dir / "images" / "set").symlink_to(raw_dir)
    (raw_dir / "images" / "self").symlink_to(raw_dir / "images" / "self")
    samples = found(raw_dir)
    assert keys(samples) == ["city_a"]
    assert samples.notes.left_out["links to a folder that holds them"] == 2
    assert [fault.split(":")[0] for fault in faults(samples, raw_dir)] == ["images/self"]


@pytest.mark.parametrize("name", ["b.png", "city"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_dangling_links_are_named(name: str, kind: str, raw: Callable[..., Path]) -> None:
    raw_dir = raw("a.png")
    (raw_dir / kind / name).symlink_to("/nowhere/x")
    expected = f"{kind}/{name}: a link to /nowhere/x, which is not there"
    assert faults(found(raw_dir), raw_dir) == [expected]
    skipped = found(raw_dir, skip=[name])
    assert not skipped.problems and skipped.notes.left_out["samples to skip"] == 1


def test_dangling_links_of_a_whole_pair_are_no_lonely_files(raw: Callable[..., Path]) -> None:
    raw_dir = raw("a.png", "b.png")
    (raw_dir / "labels" / "b.png").unlink()
    (raw_dir / "labels" / "b.png").symlink_to("/nowhere/b.png")
    assert [fault.split(":")[0] for fault in faults(found(raw_dir), raw_dir)] == ["labels/b.png"]


def test_files_of_systems_are_left_out_with_a_count(raw: Callable[..., Path]) -> None:
    raw_dir = raw("a.png")
    for name in ("._a.png", ".DS_Store", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png"):
        path = raw_dir / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    for name in ("Thumbs.db", "desktop.ini", "notes.txt", "more.txt"):
        (raw_dir / "labels" / name).write_bytes(b"x")
    samples = found(raw_dir)
    assert keys(samples) == ["a"] and not samples.problems
    assert samples.notes.as_json()["left_out"] == {
        HIDDEN: 4,
        "files that are no images (.db)": 1,
        "files that are no images (.ini)": 1,
        "files that are no images (.txt)": 2,
    }


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5", "camvid", "synthia"])
def test_files_of_macs_stop_no_layout(dataset: str, make_raw: Callable[..., Path]) -> None:
    raw_dir = make_raw(dataset)
    for path in list(raw_dir.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    samples = DATASETS[dataset].find(raw_dir, "train")
    assert len(samples.samples) == 3 and not samples.problems
    assert samples.notes.left_out[HIDDEN] == 6


def test_cityscapes_through_links(make_raw: Callable[..., Path], tmp_path: Path) -> None:
    raw_dir = make_raw("cityscapes")
    for kind in ("leftImg8bit", "gtFine"):
        (raw_dir / kind / "train" / "ulm").rename(tmp_path / kind)
        (raw_dir / kind / "train" / "ulm").symlink_to(tmp_path / kind)
    (tmp_path / "gtFine" / "ulm_00000_gtFine_color.png").write_bytes(b"x")
    (tmp_path / "leftImg8bit" / "other.png").write_bytes(b"x")
    samples = DATASETS["cityscapes"].find(raw_dir, "train")
    assert len(samples.samples) == 3 and not samples.problems
    assert samples.notes.as_json() == {"left_out": {"files that are not CITY/*_leftImg8bit.png": 1}}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("n" * (MAX_KEY_BYTES + 1), "expected a key of at most 92 bytes, got 93"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}" * 47, "expected a key of at most 92 bytes, got 94"),
        ("a/" + "n" * 91, "expected a key of at most 92 bytes, got 93"),
        ("a\\b", "expected a name without backslashes"),
        ("a\nb", r"expected a name of printable characters, got '\n'"),
        ("a\x7fb", r"expected a name of printable characters, got '\x7f'"),
        ("a\u202eb", r"expected a name of printable characters, got '\u202e'"),
        (os.fsdecode(b"caf\xe9"), "expected a name in UTF-8, got other bytes"),
    ],
    ids=ascii,
)
def test_names_that_cannot_be_packed_are_named(
    name: str, fault: str, raw: Callable[..., Path]
) -> None:
    raw_dir = raw("fine.png", f"{name}.png")
    samples = found(raw_dir)
    assert keys(samples) == ["fine"]
    assert [text.rpartition(": ")[2] for text in faults(samples, raw_dir)] == [fault] * 2
    for text in faults(samples, raw_dir):
        assert text.isprintable() and text.encode()
    assert not found(raw_dir, skip=[f"{name}.png"]).problems


def test_the_longest_name_packs(raw: Callable[..., Path], tmp_path: Path) -> None:
    from adapt.data.writing.pack import pack
    from storage.stores import open_store

    name = "n" * MAX_KEY_BYTES
    manifest = pack("folders", raw(f"{name}.png"), open_store(str(tmp_path / "to")), "train")
    assert manifest.num_samples == 1


def test_letters_composed_or_not_are_one_name(raw: Callable[..., Path]) -> None:
    raw_dir = raw("caf\u00e9.png")
    (raw_dir / "images" / "caf\u00e9.png").rename(raw_dir / "images" / "cafe\u0301.png")
    (raw_dir / "val.txt").write_text("caf\u00e9.png\n")
    assert keys(found(raw_dir)) == keys(found(raw_dir, "val")) == ["caf\u00e9"]


def test_a_folder_that_cannot_be_read_is_named(
    raw: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_dir, scandir = raw("a.png", "city/b.png"), os.scandir

    def refused(folder: Path) -> object:
        if Path(folder).name == "city":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    expected = [f"{kind}/city: cannot be read: Permission denied" for kind in ("images", "labels")]
    with monkeypatch.context() as patched:
        patched.setattr("os.scandir", refused)
        assert faults(found(raw_dir), raw_dir) == expected


def test_what_is_no_file_is_named(
    raw: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_dir = raw("a.png")
    monkeypatch.chdir(raw_dir / "images")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("b.png")
        assert faults(found(raw_dir), raw_dir) == [
            "images/b.png: expected a file, got a device, pipe or socket"
        ]


def test_pairs_only_leaves_lonely_files_out(raw: Callable[..., Path]) -> None:
    raw_dir = raw("a.png", "b.png", "c.png", "d.png")
    for path in ("images/b.png", "labels/c.png", "labels/d.png"):
        (raw_dir / path).unlink()
    assert len(found(raw_dir).problems) == 3
    samples = found(raw_dir, pairs_only=True)
    assert keys(samples) == ["a"] and not samples.problems
    assert samples.notes.as_json() == {
        "left_out": {"images without label": 2, "labels without image": 1}
    }


def test_pairs_only_of_no_pairs_is_refused(raw: Callable[..., Path]) -> None:
    raw_dir = raw("a.png")
    (raw_dir / "labels" / "a.png").unlink()
    with pytest.raises(DataError, match=r"got none: all left out .*images without label"):
        found(raw_dir, pairs_only=True)


def test_labels_that_are_no_images_do_not_make_a_split_unlabelled(
    raw: Callable[..., Path],
) -> None:
    raw_dir = raw("a.png")
    (raw_dir / "labels" / "a.png").rename(raw_dir / "labels" / "a.npy")
    assert faults(found(raw_dir), raw_dir) == ["images/a.png: image without label"]
    assert keys(found(raw_dir, unlabelled=True)) == ["a"]


def test_names_to_skip_that_fit_nothing_are_counted(raw: Callable[..., Path]) -> None:
    raw_dir = raw("city/a.png", "b.png")
    samples = found(raw_dir, skip=["city/a.png", "z.png"])
    assert keys(samples) == ["b"]
    assert samples.notes.as_json() == {
        "left_out": {"samples to skip": 1},
        "unused": {"names to skip that fit no file": 1},
    }


def test_a_dot_in_a_name_to_skip_is_no_suffix(raw: Callable[..., Path]) -> None:
    raw_dir = raw("t0.png", "t0.5.png")
    assert keys(found(raw_dir, skip=["t0.5"])) == ["t0"]
    assert keys(found(raw_dir, skip=["t0"])) == ["t0-5"]


def test_images_alone_have_no_pairs_to_keep(raw: Callable[..., Path]) -> None:
    assert keys(found(raw("a.png"), unlabelled=True, pairs_only=True)) == ["a"]


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("linked", [True, False])
def test_what_stands_in_a_folder_s_place_is_named(
    kind: str, linked: bool, raw: Callable[..., Path]
) -> None:
    raw_dir = raw("a.png")
    (raw_dir / kind).rename(raw_dir / "elsewhere")
    if linked:
        (raw_dir / kind).symlink_to("/nowhere")
    else:
        (raw_dir / kind).write_bytes(b"")
    text = "a link to /nowhere, which is not there" if linked else "expected a folder, got a file"
    assert f"{kind}: {text}" in faults(found(raw_dir), raw_dir)


def test_a_list_that_is_a_dangling_link_is_no_missing_list(raw: Callable[..., Path]) -> None:
    raw_dir = raw("a.png")
    (raw_dir / "train.txt").symlink_to("/nowhere")
    with pytest.raises(JobError, match=r"train.txt: cannot be read: No such file"):
        found(raw_dir)
