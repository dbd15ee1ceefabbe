"""Zip archives in place of folders: every layout gives the same samples, a packing its bytes."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.archives import with_archives
from adapt.data.datasets import DATASETS
from adapt.data.problems import BadFiles
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from storage.stores import open_store
from tests.commands import call

MakeRaw = Callable[..., Path]


def zipped(raw_dir: Path, folder: Path, *, apart: bool = True) -> list[Path]:
    """The files of a raw folder in one archive for each folder at its top, or in one for all."""
    folder.mkdir(parents=True)
    files = sorted(path for path in raw_dir.rglob("*") if path.is_file())
    for path in files:
        inside = path.relative_to(raw_dir).as_posix()
        name = inside.split("/")[0] if apart else "all"
        with zipfile.ZipFile(folder / f"{name}.zip", "a", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, inside)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_layout_is_read_from_a_folder_of_zips(
    dataset: str, make_raw: MakeRaw, tmp_path: Path
) -> None:
    raw_dir, layout = make_raw(dataset), DATASETS[dataset]
    zipped(raw_dir, tmp_path / "zips", apart=dataset != "vkitti2")
    plain, packed = layout.pairs(raw_dir, "train"), layout.pairs(tmp_path / "zips", "train")
    assert [one.key for one in packed] == [one.key for one in plain] != []
    for one, other in zip(plain, packed, strict=True):
        assert one.label_path and other.label_path
        assert other.image_path.read_bytes() == one.image_path.read_bytes()
        assert np.array_equal(
            layout.read_label(other.label_path), layout.read_label(one.label_path)
        )


def test_a_packing_of_zips_is_that_of_the_folder_and_resumes(
    make_raw: MakeRaw, tmp_path: Path
) -> None:
    raw_dir = make_raw("cityscapes", 4)
    first, second = zipped(raw_dir, tmp_path / "zips")
    answers = {}
    for name, raw in {"a": raw_dir, "b": f"{second}+{first.name}", "c": tmp_path / "zips"}.items():
        ended = call("pack", "cityscapes", raw, name, "--json", folder=tmp_path)
        assert ended.code == 0, ended.err
        answers[name] = json.loads(ended.out)["dataset_id"]
    assert len(set(answers.values())) == 1
    seen = []
    store = open_store(str(tmp_path / "b"))
    pack("cityscapes", tmp_path / "zips", store, "train", on_progress=seen.append)
    assert [(one.done, one.reused) for one in seen] == [(4, 4)]
    originals = call("pack", "cityscapes", f"{first}+{second}", "d", "--original", folder=tmp_path)
    assert originals.code == 0, originals.err


def test_lists_and_unpacked_folders_lie_beside_archives(make_raw: MakeRaw, tmp_path: Path) -> None:
    raw_dir = make_raw("gta5")
    zipped(raw_dir / "labels", tmp_path / "x", apart=False)
    with zipfile.ZipFile(raw_dir / "labels.zip", "w") as archive:
        for path in sorted((raw_dir / "labels").iterdir()):
            archive.write(path, f"labels/{path.name}")
            path.unlink()
    (raw_dir / "labels").rmdir()
    (raw_dir / "val.txt").write_text("00001\n")
    (one,) = DATASETS["gta5"].pairs(raw_dir, "val")
    assert one.key == "00001" and one.image_path.is_file() and one.label_path is not None
    assert DATASETS["gta5"].read_label(one.label_path).shape == (18, 32)


def test_damaged_members_are_named(make_raw: MakeRaw, tmp_path: Path) -> None:
    (path,) = zipped(make_raw("camvid", 2), tmp_path / "zips", apart=False)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train/00001.png")
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    data[start : start + 8] = b"damaged!"
    path.write_bytes(data)
    store = open_store(str(tmp_path / "packed"))
    with pytest.raises(BadFiles, match=r"train/00001.png: corrupt image: damaged in its archive"):
        pack("camvid", path, store, "train")


def test_what_is_no_archive_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"a.zip: expected a zip archive, got: File is not a zip"):
        with_archives(tmp_path / "a.zip")
    for name, colour in (("a", 1), ("b", 2)):
        Image.new("L", (4, 4), colour).save(tmp_path / "x.png")
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(tmp_path / "x.png", "images/x.png")
            archive.writestr("README", name)
    with pytest.raises(DataError, match=r"expected one file images/x.png, got two .* a.zip and b"):
        with_archives(tmp_path)


def test_archives_in_this_folder(
    make_raw: MakeRaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(make_raw("kitti"), tmp_path / "zips")
    monkeypatch.chdir(tmp_path / "zips")
    assert len(DATASETS["kitti"].pairs(Path(), "train")) == 3


def test_names_that_climb_out_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../images/x.png", b"")
    assert not (with_archives(tmp_path / "a.zip") / "images").exists()
    assert with_archives(tmp_path / "images") == tmp_path / "images"
