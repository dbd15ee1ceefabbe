"""The manifest: written last, checked on reading, every disagreement named by its object."""

import json
from typing import Any

import numpy as np
import pytest

from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed.manifest import Manifest, PackedLabelSpace, parse_manifest
from adapt.data.packed.split_files import (
    packed_splits,
    read_manifest,
    write_manifest,
)
from adapt.errors import DataError
from storage.store import Store
from tests.data.stored import edit


def test_it_comes_back(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    assert len(index) == manifest.num_samples == 5 and len(manifest.shards) > 1
    assert manifest.labelled and manifest.dataset == "cityscapes" and manifest.size_hw is None
    assert sum(manifest.id_pixels.values()) == 5 * 18 * 32
    assert manifest.ids == tuple(range(34))
    assert index.id_pixels.dtype == np.uint32 and index.id_pixels.shape == (5, 34)
    assert index.id_pixels.sum(axis=1).tolist() == [18 * 32] * 5
    assert index.xxh3.dtype == np.uint64 and len(set(index.xxh3.tolist())) == 5
    assert Manifest.model_validate_json(manifest.canonical_json()) == manifest


def test_dataset_id_follows_every_byte(packed: Store) -> None:
    manifest, _ = read_manifest(packed, "train")
    assert len(manifest.dataset_id) == 64
    assert manifest.model_copy(update={"index_sha256": "0"}).dataset_id != manifest.dataset_id


def test_the_manifest_is_written_last(packed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, index = read_manifest(packed, "train")
    order: list[str] = []
    monkeypatch.setattr(type(packed), "put", lambda self, key, data: order.append(key))
    write_manifest(packed, "train", manifest, index)
    assert order == ["train/index.npz", "train/manifest.json"]


def test_a_missing_split_names_those_there(packed: Store) -> None:
    assert packed_splits(packed) == ["train"]
    with pytest.raises(
        DataError,
        match=r"val/manifest.json: expected the file, got none \(packed splits there: train\)\. "
        r"Fix: (copy the objects|pack the split)",
    ):
        read_manifest(packed, "val")


def test_an_empty_store_says_so(store: Store) -> None:
    with pytest.raises(DataError, match=r"expected the file, got none .no packed split is there"):
        read_manifest(store, "train")


def test_a_missing_index_is_named(packed: Store) -> None:
    packed.delete("train/index.npz")
    with pytest.raises(DataError, match=r"train/index.npz: expected the file, got none"):
        read_manifest(packed, "train")


def test_a_damaged_index_is_named(packed: Store) -> None:
    data = bytearray(packed.get("train/index.npz"))
    data[100] ^= 1
    packed.put("train/index.npz", bytes(data))
    with pytest.raises(
        DataError, match=r"train/index.npz: expected sha256 .*: damaged, or of another packing"
    ):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "train/manifest.json: expected a manifest, got a damaged or other file"),
        (b"\xff", "train/manifest.json: expected a manifest, got a damaged or other file"),
        (b"[]", "expected format_version 3, got null"),
        (b"[" * 100_000, "train/manifest.json: expected a manifest, got a damaged or other file"),
        (b'{"format_version": 1}', "expected format_version 3, got 1. Fix: pack the split again"),
        (b'{"format_version": 3}', "manifest.json: dataset: Field required"),
    ],
)
def test_wrong_manifests_are_named(packed: Store, data: bytes, message: str) -> None:
    packed.put("train/manifest.json", data)
    with pytest.raises(DataError, match=message):
        read_manifest(packed, "train")


def test_an_unknown_field_is_named(packed: Store) -> None:
    edit(packed, colour="red")
    with pytest.raises(DataError, match=r"manifest.json: colour: Extra inputs"):
        read_manifest(packed, "train")


@pytest.mark.parametrize("num_samples", [0, -1])
def test_an_empty_split_is_named(packed: Store, num_samples: int) -> None:
    edit(packed, num_samples=num_samples, shards=[])
    message = rf"train/manifest.json: num_samples: .* got {num_samples}\. Fix: copy the objects"
    with pytest.raises(DataError, match=message):
        read_manifest(packed, "train")


def edit_shard(store: Store, **values: Any) -> None:
    shards = json.loads(store.get("train/manifest.json"))["shards"]
    shards[1] |= values
    edit(store, shards=shards)


HOSTILE_NAMES = [
    "../escape.tar", "/etc/passwd", "a/b.tar", "..", ".", ".hidden", "a\\b", "a\nb", "shard.tar\n",
    "", "-rf", "ключ", "a b", "a\0b", "x" * 201,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_shards_with_names_that_could_lead_elsewhere_are_refused(name: str, packed: Store) -> None:
    edit_shard(packed, name=name)
    with pytest.raises(DataError, match=r"train/manifest.json: shards.1.name: .*, got .*--overw"):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sha256", "0" * 63),
        ("sha256", "G" * 64),
        ("sha256", "A" * 64),
        ("xxh3", "0" * 17),
        ("xxh3", ""),
        ("size_bytes", 0),
        ("size_bytes", -1),
        ("size_bytes", 2**41),
        ("num_samples", 0),
        ("num_samples", -5),
        ("num_samples", 2**31),
    ],
)
def test_impossible_shards_are_refused(key: str, value: object, packed: Store) -> None:
    edit_shard(packed, **{key: value})
    with pytest.raises(DataError, match=rf"train/manifest.json: shards.1.{key}: .*got .*--overw"):
        read_manifest(packed, "train")


def test_two_shards_of_one_name_are_refused(packed: Store) -> None:
    edit_shard(packed, name="shard-00000.tar")
    with pytest.raises(DataError, match=r"shards: .*two shards are named shard-00000.tar"):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "val"}, "split: expected 'train', the folder it lies in, got 'val'"),
        ({"split": "../val"}, "split: String should match"),
        ({"id_pixels": {"256": 5}}, "id_pixels.256"),
        ({"id_pixels": {"-1": 5}}, "id_pixels.-1"),
        ({"id_pixels": {"7": -5}}, "id_pixels.7: .*got -5"),
        ({"size_hw": [1, 10**9]}, "size_hw.1: .*got 1000000000"),
        ({"label_space": {"name": "x", "classes": ["road"]}}, "label_space.classes"),
        ({"label_space": {"name": "x", "classes": ["a"] * 255}}, "label_space.classes"),
    ],
)
def test_impossible_manifests_are_refused(
    values: dict[str, object], message: str, packed: Store
) -> None:
    edit(packed, **values)
    with pytest.raises(DataError, match=f"train/manifest.json: {message}"):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("name", "limit"), [("manifest.json", "MAX_MANIFEST_BYTES"), ("index.npz", "MAX_INDEX_BYTES")]
)
def test_files_that_are_too_large_are_not_parsed(
    name: str, limit: str, packed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = len(packed.get(f"train/{name}"))
    monkeypatch.setattr(f"adapt.data.packed.split_files.{limit}", size_bytes)
    manifest, index = read_manifest(packed, "train")
    monkeypatch.setattr(f"adapt.data.packed.split_files.{limit}", size_bytes - 1)
    message = rf"train/{name}: expected at most {size_bytes - 1} bytes, got {size_bytes}"
    with pytest.raises(DataError, match=message):
        read_manifest(packed, "train")
    with pytest.raises(DataError, match=rf"{message}\. Fix: pack (fewer|with larger)"):
        write_manifest(packed, "train", manifest, index)


def test_labels_that_are_train_ids_have_a_table_of_their_own(packed: Store) -> None:
    manifest, _ = read_manifest(packed, "train")
    assert manifest.label_space is None
    manifest.check_classes(["anything"], "uri")
    space = PackedLabelSpace.of(LABEL_SPACES["camvid11"])
    assert (space.name, space.classes) == ("camvid11", LABEL_SPACES["camvid11"].names)
    manifest = manifest.model_copy(update={"label_space": space})
    table = manifest.own_table()
    assert table.dtype == np.uint8 and table.tolist() == [*range(11), *[255] * 245]
    manifest.check_classes(LABEL_SPACES["camvid11"].names, "uri")


def test_other_classes_than_the_packed_ones_are_named(packed: Store) -> None:
    manifest, _ = read_manifest(packed, "train")
    space = PackedLabelSpace(name="custom", classes=("road", "sky"))
    manifest = manifest.model_copy(update={"label_space": space})
    message = (
        r"s3://b/train: expected labels of the classes sky, road, got train ids of custom "
        r"\(road, sky\)\. Fix: "
        r"use the classes .*, or pack the split again .*--classes"
    )
    with pytest.raises(DataError, match=message):
        manifest.check_classes(("sky", "road"), "s3://b/train")


def test_colours_are_kept_with_classes_of_no_name(packed: Store) -> None:
    manifest, _ = read_manifest(packed, "train")
    custom = LabelSpace(LABEL_SPACES["camvid11"].root[:3])
    assert PackedLabelSpace.of(LABEL_SPACES["camvid11"]).colours is None
    space = PackedLabelSpace.of(custom)
    assert space.colours == custom.colours
    read = parse_manifest(
        manifest.model_copy(update={"label_space": space}).canonical_json(), "uri"
    )
    assert read.label_space == space


def test_a_manifest_from_before_colours_were_kept_has_its_own_id(packed: Store) -> None:
    space = {"name": "custom", "classes": ["road", "sky"]}
    content = json.loads(read_manifest(packed, "train")[0].canonical_json()) | {
        "label_space": space
    }
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert parse_manifest(data, "uri").canonical_json() == data


def test_colours_that_are_not_one_a_class_are_refused(packed: Store) -> None:
    space = {"name": "custom", "classes": ["road", "sky"], "colours": [[1, 2, 3]]}
    content = json.loads(read_manifest(packed, "train")[0].canonical_json()) | {
        "label_space": space
    }
    with pytest.raises(DataError, match=r"label_space: .*expected 2 colours, got 1"):
        parse_manifest(json.dumps(content).encode(), "uri")
