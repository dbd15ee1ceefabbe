"""The index: bounded before it is read, every disagreement with the manifest named."""

import dataclasses
import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from adapt.data.packed.codecs import MAX_PIXELS, MAX_SIDE_PX
from adapt.data.packed.index import ARRAYS, Index
from adapt.data.packed.split_files import (
    MAX_INDEX_BYTES,
    read_manifest,
)
from adapt.errors import DataError
from storage.store import Store
from tests.data.stored import edit
from tests.stream.bad_splits import rewrite, write_unchecked


def test_wrong_counts_are_named(packed: Store) -> None:
    edit(packed, num_samples=4)
    with pytest.raises(DataError, match=r"index.npz: expected 4 rows in each array, got \[5\]"):
        read_manifest(packed, "train")


@pytest.mark.parametrize("shard", [-1, 99])
def test_shards_that_are_not_there_are_named(packed: Store, shard: int) -> None:
    rewrite(packed, shard=np.full(5, shard, np.int32))
    with pytest.raises(DataError, match=r"index.npz: expected shards from 0 to"):
        read_manifest(packed, "train")


def test_wrong_shard_counts_are_named(packed: Store) -> None:
    rewrite(packed, shard=np.zeros(5, np.int32))
    with pytest.raises(DataError, match=r"expected the manifest's number of samples in each shard"):
        read_manifest(packed, "train")


@pytest.mark.parametrize("wrong", ["columns", "counts"])
def test_wrong_pixel_counts_are_named(packed: Store, wrong: str) -> None:
    _, index = read_manifest(packed, "train")
    changed = {"columns": index.id_pixels[:, :-1], "counts": index.id_pixels + np.uint32(1)}
    rewrite(packed, id_pixels=changed[wrong])
    with pytest.raises(
        DataError, match=r"index.npz: expected the manifest's pixels of each id, got others"
    ):
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
    with pytest.raises(
        DataError, match=rf"sample {index.keys[3]}: expected to lie in its shard shard-"
    ):
        read_manifest(packed, "train")


def test_pickles_are_refused(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    buffer = io.BytesIO()
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(Index)}
    np.savez(buffer, allow_pickle=True, **(arrays | {"keys": np.array([Path("x")] * 5, object)}))
    for data in (buffer.getvalue(), pickle.dumps(index), b"junk"):
        write_unchecked(packed, manifest, data)
        with pytest.raises(
            DataError,
            match=r"index.npz: expected an index, got a damaged or "
            r"other file",
        ):
            read_manifest(packed, "train")


def test_a_missing_array_is_named(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    buffer = io.BytesIO()
    np.savez(buffer, keys=index.keys)
    write_unchecked(packed, manifest, buffer.getvalue())
    with pytest.raises(
        DataError, match=r"expected an index, got a damaged or other file: .*suffix"
    ):
        read_manifest(packed, "train")


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
    message = rf"index.npz: sample {index.keys[2]}: .* got {height_px}x{width_px}\. Fix: copy the"
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
    with pytest.raises(
        DataError, match=rf"expected a key for each sample, got '{index.keys[1]}' 2 times"
    ):
        read_manifest(packed, "train")


def test_rows_go_through_the_shards_in_turn(packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    rewrite(packed, shard=index.shard[[4, 0, 1, 2, 3]])
    with pytest.raises(DataError, match=r"expected rows in the order of the shards"):
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
        DataError, match=rf"train/index.npz: .*{message}.*\. Fix: copy the objects there again"
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
    with pytest.raises(
        DataError,
        match=r"expected an index, got .* its table of contents has \d+ bytes",
    ):
        read_manifest(packed, "train")
    write_unchecked(packed, manifest, buffer.getvalue() + b"a comment")
    with pytest.raises(
        DataError,
        match=r"expected an index, got a damaged or other file: it does not end as an .npz",
    ):
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
