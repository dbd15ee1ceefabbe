"""The manifest: written last, checked on reading, every disagreement named by its object."""

import dataclasses
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.codecs import MAX_PIXELS, MAX_SIDE_PX
from adapt.data.packed.index import ARRAYS, Index
from adapt.data.packed.manifest import Manifest, PackedLabelSpace
from adapt.data.packed.split_files import (
    MAX_INDEX_BYTES,
    packed_splits,
    read_manifest,
    write_manifest,
)
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from storage.store import Store
from tests.stream.faults import rewrite, write_unchecked


@pytest.fixture
def packed(make_raw: Callable[..., Path], store: Store) -> Store:
    """A store with a packed split `train` of five samples in several shards."""
    pack("cityscapes", make_raw("cityscapes", 5), store, "train", shard_bytes=2_000, workers=1)
    return store


def edit(store: Store, **values: Any) -> None:
    content = json.loads(store.get("train/manifest.json"))
    store.put("train/manifest.json", json.dumps(content | values).encode())


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
        match=r"val/manifest.json is missing \(packed splits there: train\)\. Fix: pack the split",
    ):
        read_manifest(packed, "val")


def test_an_empty_store_says_so(store: Store) -> None:
    with pytest.raises(DataError, match=r"no packed split is there"):
        read_manifest(store, "train")


def test_a_missing_index_is_named(packed: Store) -> None:
    packed.delete("train/index.npz")
    with pytest.raises(DataError, match=r"train/index.npz is missing"):
        read_manifest(packed, "train")


def test_a_damaged_index_is_named(packed: Store) -> None:
    data = bytearray(packed.get("train/index.npz"))
    data[100] ^= 1
    packed.put("train/index.npz", bytes(data))
    with pytest.raises(
        DataError, match=r"train/index.npz: damaged, or of another packing: expected sha256"
    ):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "train/manifest.json: not a manifest"),
        (b"\xff", "train/manifest.json: not a manifest"),
        (b"[]", "expected format_version 3, got None"),
        (b"[" * 100_000, "train/manifest.json: not a manifest"),
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
    message = rf"train/manifest.json: num_samples: .* got {num_samples}\. Fix: pack the split again"
    with pytest.raises(DataError, match=message):
        read_manifest(packed, "train")


def test_wrong_counts_are_named(packed: Store) -> None:
    edit(packed, num_samples=4)
    with pytest.raises(DataError, match=r"index.npz: expected 4 rows in each array, got \[5\]"):
        read_manifest(packed, "train")


@pytest.mark.parametrize("shard", [-1, 99])
def test_shards_that_are_not_there_are_named(packed: Store, shard: int) -> None:
    rewrite(packed, shard=np.full(5, shard, np.int32))
    with pytest.raises(DataError, match=r"index.npz: names a shard outside 0.."):
        read_manifest(packed, "train")


def test_wrong_shard_counts_are_named(packed: Store) -> None:
    rewrite(packed, shard=np.zeros(5, np.int32))
    with pytest.raises(DataError, match=r"samples a shard differ"):
        read_manifest(packed, "train")


@pytest.mark.parametrize("wrong", ["columns", "counts"])
def test_wrong_pixel_counts_are_named(packed: Store, wrong: str) -> None:
    _, index = read_manifest(packed, "train")
    changed = {"columns": index.id_pixels[:, :-1], "counts": index.id_pixels + np.uint32(1)}
    rewrite(packed, id_pixels=changed[wrong])
    with pytest.raises(DataError, match=r"index.npz: pixels of each id differ"):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("image_offset_bytes", -1),
        ("image_offset_bytes", 2**62),
        ("image_length_bytes", 2**63 - 1),
        ("image_length_bytes", 0),
        ("label_offset_bytes", 10**9),
        ("label_length_bytes", 0),
        ("height_px", 0),
    ],
)
def test_extents_outside_the_shard_are_named(packed: Store, array: str, value: int) -> None:
    _, index = read_manifest(packed, "train")
    values = getattr(index, array).copy()
    values[3] = value
    rewrite(packed, **{array: values})
    with pytest.raises(DataError, match=rf"sample {index.keys[3]} does not fit its shard shard-"):
        read_manifest(packed, "train")


def test_pickles_are_refused(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    buffer = io.BytesIO()
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(Index)}
    np.savez(buffer, allow_pickle=True, **(arrays | {"keys": np.array([Path("x")] * 5, object)}))
    for data in (buffer.getvalue(), pickle.dumps(index), b"junk"):
        write_unchecked(packed, manifest, data)
        with pytest.raises(DataError, match=r"index.npz: not an index"):
            read_manifest(packed, "train")


def test_a_missing_array_is_named(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    buffer = io.BytesIO()
    np.savez(buffer, keys=index.keys)
    write_unchecked(packed, manifest, buffer.getvalue())
    with pytest.raises(DataError, match=r"not an index: .*suffix"):
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


@pytest.mark.parametrize(
    ("height_px", "width_px"),
    [(MAX_SIDE_PX + 1, 1), (1, 100_000), (2**14 + 1, 2**14), (2**31 - 1,) * 2],
)
def test_images_larger_than_any_camera_s_are_refused(
    height_px: int, width_px: int, packed: Store
) -> None:
    assert MAX_PIXELS == 2**28
    _, index = read_manifest(packed, "train")
    heights, widths = index.height_px.copy(), index.width_px.copy()
    heights[2], widths[2] = height_px, width_px
    rewrite(packed, height_px=heights, width_px=widths)
    message = rf"index.npz: sample {index.keys[2]}: .* got {height_px}x{width_px}\. Fix: pack the"
    with pytest.raises(DataError, match=message):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    "key", ["", "..", ".", "a/b", "../a", "a\\b", "a\nb", "a\x1b[2Jb", "\ud800"]
)
def test_keys_that_could_lead_elsewhere_are_refused(key: str, packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    rewrite(packed, keys=np.array([key, *index.keys[1:].tolist()]))
    with pytest.raises(DataError, match=r"index.npz: expected keys that are plain names .*got '"):
        read_manifest(packed, "train")


def test_unknown_suffixes_are_refused(packed: Store) -> None:
    rewrite(packed, suffix=np.array(["qoi"] * 4 + ["exe"]))
    with pytest.raises(DataError, match=r"index.npz: suffix: expected qoi, png, jpg, got 'exe'"):
        read_manifest(packed, "train")


def test_keys_twice_are_refused(packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    rewrite(packed, keys=np.array([index.keys[1], *index.keys[1:].tolist()]))
    with pytest.raises(DataError, match=rf"two samples have the key '{index.keys[1]}'"):
        read_manifest(packed, "train")


def test_rows_go_through_the_shards_in_turn(packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    rewrite(packed, shard=index.shard[[4, 0, 1, 2, 3]])
    with pytest.raises(DataError, match=r"rows do not go through the shards in turn"):
        read_manifest(packed, "train")


def npz(index: Index, **changes: bytes) -> bytes:
    """The index with some members' bytes replaced."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(index.to_bytes())) as source,
        zipfile.ZipFile(buffer, "w") as archive,
    ):
        for name in ARRAYS:
            archive.writestr(f"{name}.npy", changes.get(name, source.read(f"{name}.npy")))
    return buffer.getvalue()


def npy(
    descr: str,
    shape: str,
    data: bytes = b"",
    version: bytes = b"\1\0",
    length: int | None = None,
) -> bytes:
    """An array file whose header says this, and that it has `length` bytes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }} \n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", length or len(header)) + header + data


STRANGE = "expected an array of numbers or text as numpy writes it"
HOSTILE_ARRAYS: dict[str, tuple[str, bytes, str]] = {
    "long": ("shard", npy("<i4", "(1000000000000,)", b"\0" * 20), r"shape .1000000000000,. of <i4"),
    "short": ("shard", npy("<i4", "(5,)", b"\0" * 24), r"shape .5,. of <i4 in 24 bytes"),
    "overflowing": ("id_pixels", npy("<u4", "(1073741825, 4)", b"\0" * 16), "in 16 bytes"),
    "two axes": ("shard", npy("<i4", "(5, 1)", b"\0" * 20), r"shape .5, 1. of <i4 in 20"),
    "negative": ("shard", npy("<i4", "(-5,)", b"\0" * 20), STRANGE),
    "no axes": ("shard", npy("<i4", "()", b"\0" * 4), STRANGE),
    "objects": ("keys", npy("|O", "(5,)", b"\x80\4N."), STRANGE),
    "long integers": ("shard", npy("<i8", "(5,)", b"\0" * 40), "expected type <i4, got <i8"),
    "floats": ("xxh3", npy("<f8", "(5,)", b"\0" * 40), STRANGE),
    "signed": ("xxh3", npy("<i8", "(5,)", b"\0" * 40), "xxh3: expected type <u8, got <i8"),
    "other byte order": ("keys", npy(">U1", "(5,)", b"\0" * 20), STRANGE),
    "bytes": ("keys", npy("|S1", "(5,)", b"abcde"), STRANGE),
    "no text": ("keys", npy("<i4", "(5,)", b"\0" * 20), "keys: expected type U, got <i4"),
    "no characters": ("keys", npy("<U1", "(5,)", b"\xff" * 20), "keys: text with numbers"),
    "empty text": ("suffix", npy("<U0", "(1000000000000,)"), "5 rows in each array, got"),
    "version 2": ("shard", npy("<i4", "(5,)", b"\0" * 20, version=b"\2\0"), STRANGE),
    "another length": ("shard", npy("<i4", "(5,)", b"\0" * 20, length=64), STRANGE),
    "junk": ("shard", b"junk", STRANGE),
    "nothing": ("shard", b"", STRANGE),
}


@pytest.mark.parametrize("case", HOSTILE_ARRAYS)
def test_hostile_arrays_are_refused_with_bounded_memory(case: str, packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    name, data, message = HOSTILE_ARRAYS[case]
    write_unchecked(packed, manifest, npz(index, **{name: data}))
    refused_in_little_memory(packed, message)


def refused_in_little_memory(store: Store, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(
        DataError, match=rf"train/index.npz: .*{message}.*\. Fix: pack the split again"
    ):
        read_manifest(store, "train")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4_000_000  # a block of reading is one


def test_a_zip_bomb_is_refused_with_bounded_memory(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ARRAYS:
            archive.writestr(f"{name}.npy", b"\0" * 20_000_000)
    assert len(buffer.getvalue()) < 300_000 < MAX_INDEX_BYTES
    write_unchecked(packed, manifest, buffer.getvalue())
    refused_in_little_memory(packed, "keys is compressed, to 20000000 bytes as it states")
    write_unchecked(packed, manifest, npz(index))
    assert len(read_manifest(packed, "train")[1]) == 5


def test_a_zip_with_a_long_table_of_contents_is_refused(packed: Store) -> None:
    manifest, _ = read_manifest(packed, "train")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(1_500):
            archive.writestr(str(number), b"")
    write_unchecked(packed, manifest, buffer.getvalue())
    with pytest.raises(DataError, match=r"not an index: its table of contents has \d+ bytes"):
        read_manifest(packed, "train")
    write_unchecked(packed, manifest, buffer.getvalue() + b"a comment")
    with pytest.raises(DataError, match=r"not an index: it does not end as an .npz"):
        read_manifest(packed, "train")


def test_random_damage_is_refused_or_harmless(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    data, rng = index.to_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(120):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            changed[place] = rng.integers(0, 256)
        write_unchecked(packed, manifest, bytes(changed[: rng.integers(1, 2 * len(data))]))
        try:
            read_manifest(packed, "train")
        except DataError:
            refused += 1
    assert refused > 90


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
