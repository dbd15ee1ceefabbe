"""Some samples of a packed split: they are read as in the whole, no other shard is fetched, and a
key that is not there is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from storage.shards.cache import ShardCache
from storage.store import Store
from tests.conftest import write_raw_folders

TABLE = np.arange(256, dtype=np.uint8)
Open = Callable[..., PackedSplit]


@pytest.fixture
def opened(store: Store, tmp_path: Path) -> Open:
    """opened(keys) -> these of twelve samples in several shards."""
    write_raw_folders(tmp_path / "raw", 12, seed=3)
    pack("folders", tmp_path / "raw", store, "train", name="tiny", shard_bytes=15_000, workers=1)

    def open_split(keys: list[str] | None = None) -> PackedSplit:
        cache = ShardCache(tmp_path / "cache")
        return PackedSplit(store, "train", cache, TABLE, keys=keys)

    return open_split


def test_samples_are_those_of_the_whole_split(opened: Open) -> None:
    whole, some = opened(), opened(["011", "002", "001", "002"])
    rows = [row for row in range(12) if whole.key(row) in ("001", "002", "011")]
    assert len(some) == 3
    for sample, row in enumerate(rows):
        found, expected = some.read(sample), whole.read(row)
        assert found.labels is not None and expected.labels is not None
        assert found.image.equal(expected.image) and found.labels.equal(expected.labels)
        assert some.name(sample) == whole.name(row)
    counts = whole.label_pixels(4)[rows]
    assert np.array_equal(some.label_pixels(4), counts)
    assert [some.manifest.id_pixels[id_] for id_ in range(4)] == counts.sum(axis=0).tolist()
    some.close(), whole.close()


def test_shards_without_any_of_the_samples_are_not_fetched(opened: Open, store: Store) -> None:
    whole = opened()
    assert len(whole.shard_sizes) > 2
    last = len(whole) - 1
    for shard in whole.manifest.shards[:-1]:
        store.delete(f"train/{shard.name}")
    some = opened([whole.key(last)])
    assert some.shard_sizes == (1,)
    some.want([0])
    assert some.read(0).labels is not None
    some.close(), whole.close()


def test_other_samples_are_another_dataset(opened: Open) -> None:
    splits = [opened(keys) for keys in (None, ["001"], ["002"], ["001", "002"], ["002", "001"])]
    ids = [split.dataset_id for split in splits]
    assert len(set(ids)) == 4 and ids[3] == ids[4], "their order does not count"


def test_a_key_that_is_not_there_is_named(opened: Open) -> None:
    with pytest.raises(DataError) as raised:
        opened(["001", "01", "nothing"])
    assert "packed/train: expected the sample of each of 3 keys, got '01'; did you mean" in str(
        raised.value
    )
    assert "the first of 2 that it lacks. Fix: write the images' names" in str(raised.value)
