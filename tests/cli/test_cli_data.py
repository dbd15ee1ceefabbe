"""Commands on data: pack, merge, verify, inspect."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import refused, write_spec
from tests.commands import Ended, call
from tests.conftest import TINY_HW, tiny_values, write_raw_folders


def pack(folder: Path, *more: object, layout: str = "folders", raw: str = "raw") -> Ended:
    return call("pack", layout, raw, "packed", "--shard-mb", "0.03", *more, folder=folder)


def test_pack_then_pack_again_does_nothing(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 6, seed=1)
    first = pack(tmp_path, "--name", "tiny", "--json")
    assert first.code == 0 and "6 samples" in first.err
    answer = json.loads(first.out)
    assert (answer["num_samples"], answer["dataset"], answer["split"]) == (6, "tiny", "train")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")}
    again = pack(tmp_path, "--name", "tiny", "--json")
    assert json.loads(again.out) == answer
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")} == before
    refused(pack(tmp_path, "--name", "other"), 2, "got another (", "--overwrite")


@pytest.mark.parametrize("more", [("--size-hw", 24, 32), ("--small",)], ids=str)
def test_original_files_are_not_resized(more: tuple[object, ...], tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    refused(pack(tmp_path, "--original", *more), 2, "--original")
    assert not (tmp_path / "packed").exists()


def test_slices_are_merged_and_verified(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    for number in (1, 0):
        ended = pack(tmp_path, "--slice", f"{number}/2", "--json")
        assert ended.code == 0 and f"(slice {number}/2). Run `merge` when all" in ended.err
        assert "dataset_id" not in json.loads(ended.out)
        if number == 1:
            refused(
                call("merge", "packed", folder=tmp_path), 4, "`pack --slice I/2` again for I = 0,"
            )
    shutil.rmtree(tmp_path / "raw")
    merged = call("merge", "packed", "--json", folder=tmp_path)
    assert merged.code == 0 and "packed/train: 14 samples in" in merged.err
    assert call("merge", "packed", "--json", folder=tmp_path).out == merged.out
    verified = call("verify", "packed", folder=tmp_path)
    assert verified.code == 0 and "14 samples in" in verified.err and verified.out == ""
    assert "of train, " in verified.err and "no faults" in verified.err
    sliced = call("verify", "packed", "--slice", "0/100", folder=tmp_path)
    assert "in 1 shard of train" in sliced.err and "no faults in slice 0/100" in sliced.err
    refused(call("verify", "packed", "--slice", "2/2", folder=tmp_path), 2, "--slice: expected I/N")
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    whole = call("pack", "folders", "raw", "whole", "--shard-mb", "0.03", "--json", folder=tmp_path)
    assert whole.out == merged.out


def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 1, seed=1)
    for ended in (pack(tmp_path), call("verify", "packed", folder=tmp_path)):
        assert ended.code == 0 and "1 sample in 1 shard" in ended.err
        assert "1 samples" not in ended.err and "1 shards" not in ended.err
    assert "1 in 1 shard," in call("inspect", "packed", folder=tmp_path).out


def test_the_help_names_every_store_that_pack_writes_to(tmp_path: Path) -> None:
    shown = call("pack", "--help", folder=tmp_path).out
    assert all(f"{scheme}://" in shown for scheme in ("s3", "obs", "gs", "az"))


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    pack(tmp_path)
    shard = tmp_path / "packed" / "train" / "shard-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-9000])
    ended = call("verify", "packed", "--split", "train", folder=tmp_path)
    refused(ended, 4, "train/shard-00001.tar: size: expected", "--overwrite")
    as_json = call("verify", "packed", "--json", "--workers", 1, folder=tmp_path)
    assert as_json.code == 4 and len(json.loads(as_json.out)["faults"]) >= 3
    shard.unlink()
    refused(
        call("verify", "packed", folder=tmp_path), 4, "1 fault in", "shard-00001.tar: is missing"
    )
    refused(
        call("verify", "nothing", folder=tmp_path), 4, "nothing: expected a packed split, got none"
    )


@pytest.mark.parametrize("argv", [["verify"], ["inspect"], ["inspect", "--split", "val"]])
def test_a_split_s_own_folder_is_called_that(argv: list[str], tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    pack(tmp_path)
    ended = call(argv[0], "packed/train/", *argv[1:], folder=tmp_path)
    refused(ended, 4, "expected the folder of a packed dataset, got that of its split 'train'")
    assert ended.err.rstrip().endswith(
        f"Fix: write file://{tmp_path}/packed, and train as the split."
    )


def test_a_split_that_is_no_name_is_refused_with_a_fix(tmp_path: Path) -> None:
    for command in ("verify", "inspect"):
        refused(call(command, "x", "--split", "../val", folder=tmp_path), 3, "Fix: name what lies")


def test_run_and_verify_have_one_sentence_for_damage(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    pack(tmp_path)
    index = tmp_path / "packed" / "train" / "index.npz"
    index.write_bytes(index.read_bytes()[::-1])
    for command in ("verify", "inspect"):  # `inspect` opens it as `run` does
        ended = call(command, "packed", folder=tmp_path)
        refused(
            ended, 4, "Fix: copy the objects there again, or pack the split again (--overwrite)."
        )


@pytest.mark.parametrize("sheet", ["sheet", "sheet.jpg", "a/.png", "packed", "sheet.png.txt"])
def test_a_contact_sheet_that_is_no_png_is_refused(sheet: str, tmp_path: Path) -> None:
    ended = call("inspect", "packed", "--sheet", sheet, folder=tmp_path)
    refused(ended, 2, f"--sheet: expected a .png file, got '{Path(sheet).name}'", "Fix: name it")
    ended = call("inspect", "packed", "--sheet", "x.png", "--count", "0", folder=tmp_path)
    assert ended.code == 2 and "--count" in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ("pack", "folders", "raw", "packed", "--shard-mb", "nan"),
        ("pack", "folders", "raw", "packed", "--shard-mb", "inf"),
        ("pack", "folders", "raw", "packed", "--shard-mb", "-1"),
        ("pack", "folders", "raw", "packed", "--workers", "-1"),
        ("pack", "folders", "raw", "packed", "--seed", "-1"),
        ("verify", "packed", "--workers", "-5"),
        ("demo", "--seed", "-1"),
        ("demo", "--seed", "9" * 20),
        ("sync-metrics", "--timeout-s", "nan"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(words: tuple[str, ...], tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 1, seed=1)
    ended = call(*words, folder=tmp_path)
    assert ended.code == 2 and words[-2] in ended.err and "Traceback" not in ended.err


def test_labels_are_packed_as_the_train_ids_of_a_spec(spec: Path, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    packed = pack(tmp_path, "--name", "tiny", "--classes", spec, "--json")
    names = [f"band {index}" for index in range(4)]
    assert json.loads(packed.out)["label_space"]["classes"] == names
    shown = call("inspect", "packed", "--json", folder=tmp_path)
    assert list(json.loads(shown.out)["class_shares"]) == [*names, "ignored"]
    values = tiny_values(str(tmp_path / "packed"), "runs")
    values["classes"] = [*values["classes"][:3], {**values["classes"][3], "name": "car"}]
    del values["validation"]
    ended = call("run", write_spec(values, tmp_path), folder=tmp_path)
    refused(
        ended,
        4,
        "packed/train: expected labels of the classes band 0, band 1, band 2, car, got train ids "
        "of custom (band 0,",
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--slice", "2/2"),
            "--slice: expected I/N with I from 0 to N - 1, got '2/2'. Fix: number the slices 0/2",
        ),
        (("--slice", "3/2"), "number the slices 0/2 to 1/2."),
        (("--slice", "1"), "number the slices 0/4 to 3/4."),
        (("--classes", "camvid12"), "did you mean 'camvid11'"),
        (
            ("--classes", "camvid11", "--unlabelled"),
            "--classes: expected labels to map, got images alone",
        ),
    ],
)
def test_wrong_options_of_pack_are_named(
    more: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    refused(pack(tmp_path, "--name", "camvid", *more), 2, message)
    assert not (tmp_path / "packed").exists()


def test_a_raw_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(pack(tmp_path), 4, "raw: expected a folder with images/")


@pytest.mark.parametrize("kept_bytes", [20, 2000], ids=["no header", "half a picture"])
def test_a_corrupt_image_stops_the_packing(kept_bytes: int, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 6, seed=1)
    image = tmp_path / "raw" / "images" / "003.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:kept_bytes])
    refused(pack(tmp_path), 4, "003.png: corrupt image")
    assert not list(tmp_path.glob("packed/**/manifest.json"))
    assert call("inspect", "packed", folder=tmp_path).code == 4
    image.write_bytes(whole)
    assert pack(tmp_path).code == 0
    assert call("inspect", "packed", folder=tmp_path).code == 0


def test_unknown_ids_in_a_label_are_named(tmp_path: Path) -> None:
    for folder, ending, mode in (
        ("leftImg8bit", "leftImg8bit", "RGB"),
        ("gtFine", "gtFine_labelIds", "L"),
    ):
        (tmp_path / "raw" / folder / "train" / "ulm").mkdir(parents=True)
        path = tmp_path / "raw" / folder / "train" / "ulm" / f"ulm_000000_000019_{ending}.png"
        Image.new(mode, (8, 6), 77 if mode == "L" else (1, 2, 3)).save(path)
    ended = pack(tmp_path, layout="cityscapes")
    message = "labelIds.png: expected ids from 0 to 33 in the label, got 77"
    refused(ended, 4, f"ulm_000000_000019_gtFine_{message}")
    assert not list(tmp_path.glob("packed/**/manifest.json"))


def test_inspect_shows_class_shares_and_a_sheet(spec: Path, tiny_uri: str, tmp_path: Path) -> None:
    shown = call("inspect", tiny_uri, "--classes", spec, "--sheet", "sheet.png", folder=tmp_path)
    assert shown.code == 0 and "22 in" in shown.out and "band 3" in shown.out
    assert "sheet.png" in shown.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= TINY_HW[1]
    asked = ("--split", "val", "--classes", spec, "--json")
    answer = json.loads(call("inspect", tiny_uri, *asked, folder=tmp_path).out)
    assert answer["num_samples"] == 5 and answer["manifest"]["dataset"] == "tiny"
    assert sum(answer["class_shares"].values()) == pytest.approx(1)


def test_inspect_of_nothing(tmp_path: Path) -> None:
    refused(call("inspect", "nothing", folder=tmp_path), 4, "nothing", "pack")
