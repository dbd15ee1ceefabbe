"""The packed splits of a job."""

import json
import shutil
from pathlib import Path

import pytest

from adapt.check import Subject
from adapt.check.data import check_split, parts_of
from adapt.data.writing.pack import pack
from adapt.platforms.platform import Finding
from storage.stores import Stores
from tests.check.subjects import (
    assert_green,
    assert_red,
    subject,
)
from tests.conftest import write_raw_folders
from tests.storage.web_server import WebServer


def source_of(one: Subject) -> tuple[Finding, ...]:
    return check_split(one, "source").findings


def test_a_shard_that_is_missing(damaged: Path, tmp_path: Path) -> None:
    shard = min(damaged.glob("train/*.tar"))
    shard.unlink()
    found = source_of(subject(tmp_path, str(damaged)))
    message = f"expected 4 shards, got all but 1, the first of which is train/{shard.name}; copy"
    assert_red(found, "source shards", 4, message)


def test_a_shard_that_is_truncated(damaged: Path, tmp_path: Path) -> None:
    shard = max(damaged.glob("train/*.tar"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    found = source_of(subject(tmp_path, str(damaged)))
    message = f"{shard.name}: expected {len(whole)} bytes, got {len(whole) - 512}"
    assert_red(found, "source shards", 4, message, "pack the split again (--overwrite)")


def test_a_first_sample_that_is_damaged(damaged: Path, tmp_path: Path) -> None:
    for shard in damaged.glob("*/*.tar"):
        data = bytearray(shard.read_bytes())
        data[512:2048] = bytes(1536)
        shard.write_bytes(data)
    one = subject(tmp_path, str(damaged))
    assert_red(source_of(one), "source sample", 4, "expected the packed bytes, got others (xxh3)")
    target = check_split(one, "target").findings
    assert_red(target, "target sample", 4, "pack the split again (--overwrite)")


def test_labelled_samples_of_the_target_are_a_dataset_of_their_own(
    damaged: Path, tmp_path: Path
) -> None:
    keys = "target.labelled_keys=['003', '011']"
    one = subject(tmp_path, str(damaged), keys)
    assert [part.name for part in parts_of(one.job)] == [
        "source",
        "labelled target",
        "target",
        "validation",
    ]
    report = check_split(one, "labelled target")
    assert_green(report.findings, "labelled target", "train: 2 samples of tiny")
    assert_green(report.findings, "labelled target classes", "pixels of 4 classes")
    assert_green(report.findings, "labelled target sample", " decodes")
    assert not report.shard_bytes, "the target's, which are counted once"
    other = subject(tmp_path, str(damaged), "target.labelled_keys=['33']")
    assert_red(check_split(other, "labelled target").findings, "labelled target", 4, "got '33'")
    assert_green(check_split(other, "target").findings, "target", "22 samples")
    other = subject(tmp_path, str(damaged), "target.labelled_split=few")
    assert_red(check_split(other, "labelled target").findings, "labelled target", 4, "few")


def test_a_store_without_a_list_is_asked_for_the_ends_of_its_shards(
    damaged: Path, web_server: WebServer, tmp_path: Path
) -> None:
    files = {f"/d/{p.relative_to(damaged)}": p.read_bytes() for p in damaged.rglob("*.*")}
    web_server.files |= files
    one = subject(tmp_path, f"{web_server.url}/d")
    assert_green(source_of(one), "source shards", "all 4 are there")
    last = max(name for name in files if name.startswith("/d/train/") and name.endswith(".tar"))
    web_server.files[last] = files[last][:-512]
    assert_red(
        source_of(one), "source shards", 3, last.removeprefix("/d/"), "shorter than requested"
    )
    del web_server.files[last]
    assert_red(source_of(one), "source shards", 3, "there is no such object")


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("source.split=trian", 4, "trian/manifest.json: expected the file, got none"),
        ("source.split=trian", 4, "packed splits there: train, val"),
        ("classes.0.ids={tiny: [200]}", 0, "no pixel of 4 classes is of band 0"),
    ],
)
def test_splits_and_sizes_and_classes_that_are_not_there(
    override: str, code: int, message: str, tiny_uri: str, tmp_path: Path
) -> None:
    found = source_of(subject(tmp_path, tiny_uri, override))
    if code:
        assert_red(found, "source", code, message)
    else:
        assert_green(found, "source classes", message)


def test_classes_that_have_nothing_to_do_with_the_data(tiny_uri: str, tmp_path: Path) -> None:
    none = [f"classes.{number}.ids={{tiny: [{200 + number}]}}" for number in range(4)]
    found = source_of(subject(tmp_path, tiny_uri, *none))
    message = "expected pixels of the job's classes, got none of any; correct `classes`"
    assert_red(found, "source classes", 4, message)


def test_data_of_another_name(damaged: Path, tmp_path: Path) -> None:
    manifest = damaged / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "tiny"', '"dataset": "town"'))
    message = "expected dataset 'tiny', got shards packed as 'town'"
    assert_red(source_of(subject(tmp_path, str(damaged))), "source", 4, message)


def test_data_that_was_packed_at_another_size(damaged: Path, tmp_path: Path) -> None:
    path = damaged / "train" / "manifest.json"
    exact = {"profile": "exact", "size_hw": [48, 64]}
    path.write_text(json.dumps(json.loads(path.read_text()) | exact))
    found = source_of(subject(tmp_path, str(damaged), "source.size_hw=[40, 56]"))
    assert_red(
        found, "source", 4, "expected size_hw [48, 64] as packed, got [40, 56]", "set size_hw"
    )


def test_shards_of_other_classes(damaged: Path, tmp_path: Path) -> None:
    path = damaged / "train" / "manifest.json"
    space = {"name": "custom", "classes": ["sky", "road"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label_space": space}))
    message = "got train ids of custom (sky, road)"
    assert_red(source_of(subject(tmp_path, str(damaged))), "source", 4, message)


def test_a_validation_split_needs_labels_unless_none_choose(tiny_uri: str, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=9)
    shutil.rmtree(tmp_path / "raw" / "labels")
    bare = str(tmp_path / "bare")
    pack("folders", tmp_path / "raw", Stores().open(bare), "train", name="tiny", unlabelled=True)
    unlabelled = (f"validation.uri={bare}", "validation.split=train")
    by_labels = subject(tmp_path, tiny_uri, *unlabelled, "evaluate.select_by=miou")
    assert not all(one.ok for one in check_split(by_labels, "validation").findings)
    default = check_split(subject(tmp_path, tiny_uri, *unlabelled), "validation").findings
    assert all(one.ok for one in default)
    assert "without labels: checkpoints are chosen by ensemble_agreement" in default[0].found
    free = "evaluate.select_by=nuclear_norm"
    found = check_split(subject(tmp_path, tiny_uri, *unlabelled, free), "validation").findings
    assert all(one.ok for one in found)
    assert [one.what for one in found] == ["validation", "validation shards", "validation sample"]
    labelled = check_split(subject(tmp_path, tiny_uri, free), "validation").findings
    assert_green(labelled, "validation classes", "pixels of 4 classes")
