"""N jobs pack a slice each and a last step merges: the same bytes as one job, or what is missing by
name.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.merge import merge
from adapt.data.writing.pack import PackingProgress, pack
from adapt.data.writing.plan import Slice
from adapt.errors import DataError, JobError
from storage.store import Store
from storage.stores import Stores, open_store

MakeRaw = Callable[..., Path]
PackSlice = Callable[..., Manifest]
SETTINGS: dict[str, Any] = {"shard_bytes": 2_000, "label_space": LABEL_SPACES["cityscapes19"]}
NUM_SLICES = 3


def objects(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list()}


@pytest.fixture
def whole(make_raw: MakeRaw, tmp_path: Path) -> dict[str, bytes]:
    """What one job writes of nine samples in five shards."""
    store = open_store(str(tmp_path / "whole"))
    pack("gta5", make_raw("gta5", 9), store, "train", **SETTINGS)
    return objects(store)


@pytest.fixture
def pack_slice(make_raw: MakeRaw, store: Store) -> PackSlice:
    """pack_slice(number, **changes) -> the manifest of a slice packed into `store`."""
    raw_dir = make_raw("gta5", 9)

    def pack_one(number: int, into: Store = store, **changes: Any) -> Manifest:
        part = Slice(number, NUM_SLICES)
        return pack("gta5", raw_dir, into, "train", **SETTINGS | {"part": part} | changes)

    return pack_one


def test_merged_slices_are_the_single_job_s_bytes(
    whole: dict[str, bytes], pack_slice: PackSlice, store: Store, tmp_path: Path
) -> None:
    parts = [pack_slice(number) for number in (2, 0, 1)]
    assert [len(part.shards) for part in parts] == [1, 2, 2]
    assert sum(part.num_samples for part in parts) == 9
    assert "train/manifest.json" not in objects(store)
    shutil.rmtree(tmp_path / "raw-gta5")
    manifest = merge(store, "train")
    assert objects(store) == whole
    assert read_manifest(store, "train")[0] == manifest
    assert merge(store, "train") == manifest and objects(store) == whole


@pytest.mark.slow
def test_side_by_side_on_a_real_object_store(
    whole: dict[str, bytes], pack_slice: PackSlice, s3_stores: Stores, s3_uri: str
) -> None:
    store = s3_stores.open(s3_uri)
    with ThreadPoolExecutor(NUM_SLICES) as pool:
        list(pool.map(lambda number: pack_slice(number, s3_stores.open(s3_uri)), range(NUM_SLICES)))
    merge(store, "train")
    assert objects(store) == whole


def test_a_slice_packs_its_own_shards_and_goes_on(pack_slice: PackSlice, store: Store) -> None:
    seen: list[PackingProgress] = []
    pack_slice(1)
    names = [f"train/shard-{number:05d}.{kind}" for number in (1, 4) for kind in ("json", "tar")]
    assert sorted(objects(store)) == names
    pack_slice(1, on_progress=seen.append)
    assert seen == [PackingProgress(3, 3, 3)] * len(seen) and seen


def test_more_slices_than_shards(pack_slice: PackSlice, store: Store) -> None:
    part = pack_slice(0, part=Slice(8, 9))
    assert (part.num_samples, part.shards) == (0, ()) and not objects(store)


def test_a_plain_pack_takes_the_slices_over(
    whole: dict[str, bytes], pack_slice: PackSlice, store: Store
) -> None:
    seen: list[PackingProgress] = []
    pack_slice(0)
    pack_slice(0, part=Slice(0, 1), on_progress=seen.append)
    assert seen[0] == PackingProgress(4, 9, 4) and objects(store) == whole


def test_a_complete_split_is_left_alone_by_slices(pack_slice: PackSlice, store: Store) -> None:
    manifest = pack_slice(0, part=Slice(0, 1))
    before = objects(store)
    assert pack_slice(1) == manifest and objects(store) == before
    with pytest.raises(JobError, match=r"got another .size_hw is null there"):
        pack_slice(1, size_hw=(9, 16))


def test_overwrite_replaces_a_merged_split_slice_by_slice(
    whole: dict[str, bytes], pack_slice: PackSlice, store: Store
) -> None:
    pack_slice(0, part=Slice(0, 1), size_hw=(9, 16))
    pack_slice(2, overwrite=True)
    with pytest.raises(DataError, match=r"let an interrupted pack finish"):
        read_manifest(store, "train")
    for number in (0, 1):
        pack_slice(number, overwrite=True)
    merge(store, "train")
    kept = {key: content for key, content in objects(store).items() if "/versions/" not in key}
    assert kept == whole


def test_missing_shards_are_named_with_their_slice(pack_slice: PackSlice, store: Store) -> None:
    with pytest.raises(
        DataError, match=r"packed/train: expected packed slices, got none\. Fix: run `pack"
    ):
        merge(store, "train")
    pack_slice(0)
    message = (
        r"train: 3 of 5 shards cannot be merged:\n  shard-00001: not packed yet\n"
        r"  shard-00002: not .*\n  shard-00004: .*\. "
        r"Fix: run `pack --slice I/3` again for I = 1, 2, "
    )
    with pytest.raises(DataError, match=message):
        merge(store, "train")
    assert "train/manifest.json" not in objects(store)


def test_many_missing_shards_are_counted(pack_slice: PackSlice, store: Store) -> None:
    pack_slice(0, shard_bytes=1, part=Slice(0, 100))
    with pytest.raises(
        DataError, match=r"(?s)8 of 9 shards .*`pack --slice I/100` again for I = 1, 2, 3, 4, 5"
    ):
        merge(store, "train")
    other = "train/shard-00000.json"
    content = json.loads(store.get(other))
    content["plan"]["num_shards"] = 50
    store.put(other, json.dumps(content).encode())
    with pytest.raises(
        DataError, match=r"(?s)49 of 50.*shard-00010: .*\.\.\. and 39 more\. Fix: run"
    ):
        merge(store, "train")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", [], "its record is damaged"),
        ("rows", None, "no record that can be read"),
        ("libraries", {"Pillow": "1.0"}, r"made by Pillow 1\.0, others by Pillow \d.*qoi"),
        ("size_bytes", 5, r"expected 5 bytes, got \d+"),
        ("name", "shard-00000.tar", "its record is damaged"),
        ("profile", "small", "of another packing .encoding is 'small' there, 'exact' requested"),
    ],
)
def test_shards_that_do_not_belong_are_named(
    key: str, value: object, message: str, pack_slice: PackSlice, store: Store
) -> None:
    for number in range(NUM_SLICES):
        pack_slice(number)
    content = json.loads(store.get("train/shard-00004.json"))
    owner = next(one for one in (content, content["shard"], content["plan"]) if key in one)
    owner[key] = value
    store.put("train/shard-00004.json", json.dumps(content).encode())
    with pytest.raises(
        DataError, match=rf"(?s)shard-00004: {message}.*`pack --slice I/3` again for I = 1,"
    ):
        merge(store, "train")
    assert "train/manifest.json" not in objects(store)


def test_a_lost_shard_is_named(pack_slice: PackSlice, store: Store) -> None:
    for number in range(NUM_SLICES):
        pack_slice(number)
    store.delete("train/shard-00003.tar")
    with pytest.raises(DataError, match=r"shard-00003: expected \d+ bytes, got nothing"):
        merge(store, "train")


def test_slices_of_other_settings_do_not_mix(pack_slice: PackSlice, store: Store) -> None:
    pack_slice(0)
    pack_slice(1)
    pack_slice(2, label_space=None)
    message = r"shard-00002: of another packing \(label_space is null there, cityscapes19 \(road, "
    with pytest.raises(DataError, match=message):
        merge(store, "train")


def test_more_leftovers_of_an_older_packing_do_not_disturb(
    pack_slice: PackSlice, store: Store, tmp_path: Path
) -> None:
    pack_slice(0, shard_bytes=1, part=Slice(0, 2))
    pack_slice(0, shard_bytes=1, part=Slice(1, 2))
    for number in range(NUM_SLICES):
        pack_slice(number, shard_bytes=4_000)
    left = [key for key in objects(store) if key.endswith(".json")]
    assert len(left) == 9
    assert len(merge(store, "train").shards) == 3
    whole = open_store(str(tmp_path / "whole"))
    pack_slice(0, whole, shard_bytes=4_000, part=Slice(0, 1))
    assert objects(store) == objects(whole)


@pytest.mark.parametrize("records", ["own", "foreign"])
def test_a_merge_that_was_stopped_goes_on(
    records: str, whole: dict[str, bytes], pack_slice: PackSlice, store: Store
) -> None:
    for number in range(NUM_SLICES):
        pack_slice(number)
    left = store.get("train/shard-00002.json")
    merge(store, "train")
    if records == "own":
        store.put("train/shard-00002.json", left)
        merge(store, "train")
        assert objects(store) == whole
        return
    sha256 = json.loads(left)["plan"]["sha256"].encode()
    store.put("train/shard-00002.json", left.replace(sha256, b"0" * 64))
    with pytest.raises(
        DataError,
        match=r"shard-00002.json: expected the packing that is complete there, got another",
    ):
        merge(store, "train")


def test_samples_that_are_missing_are_counted(pack_slice: PackSlice, store: Store) -> None:
    for number in range(NUM_SLICES):
        pack_slice(number)
    for number in range(5):
        key = f"train/shard-{number:05d}.json"
        store.put(key, store.get(key).replace(b'"num_samples": 9', b'"num_samples": 10'))
    with pytest.raises(DataError, match=r"expected 10 samples in all shards, got 9"):
        merge(store, "train")


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "a/b", "0/0", "1/2/3", "0/3 ", "٠/٣"])
def test_a_slice_is_i_of_n(text: str) -> None:
    with pytest.raises(JobError, match=r"--slice: expected I/N with I from 0 to N - 1"):
        Slice.parse(text)


@pytest.mark.parametrize("text", ["0/1000000", "0/1000000000"])
def test_too_many_slices_are_named_with_the_limit(text: str) -> None:
    with pytest.raises(JobError, match=f"--slice: expected at most 999999 slices, got '{text}'"):
        Slice.parse(text)
    assert Slice.parse("0/999999") == Slice(0, 999_999)


def test_slices_share_out_all_shards() -> None:
    assert Slice.parse("2/3") == Slice(2, 3)
    dealt = [number for index in range(4) for number in Slice(index, 4).shards(11)]
    assert sorted(dealt) == list(range(11)) and dealt[:3] == [0, 4, 8]
