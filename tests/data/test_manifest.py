"""The manifest: written last, checked on reading, every disagreement named by its object."""

import dataclasses
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapt.data.manifest import Index, Manifest, packed_splits, read_manifest, write_manifest
from adapt.data.packing import pack
from adapt.errors import DataError
from storage.store import Store
from tests.data.faults import rewrite, write_unchecked


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
        DataError, match=r"val/manifest.json is missing: `pack`.*packed splits there: train"
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
    with pytest.raises(DataError, match=r"train/index.npz: damaged, or of another packing: sha256"):
        read_manifest(packed, "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "train/manifest.json: not a manifest"),
        (b"\xff", "train/manifest.json: not a manifest"),
        (b"[]", "expected format_version 2, found None"),
        (b'{"format_version": 1}', "expected format_version 2, found 1; pack the data again"),
        (b'{"format_version": 2}', "manifest.json: dataset: Field required"),
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
    message = rf"train/manifest.json: num_samples: .* found {num_samples}: the split is empty"
    with pytest.raises(DataError, match=message):
        read_manifest(packed, "train")


def test_wrong_counts_are_named(packed: Store) -> None:
    edit(packed, num_samples=4)
    with pytest.raises(DataError, match=r"index.npz: expected 4 rows in each array, found \[5\]"):
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
