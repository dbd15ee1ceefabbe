"""Samples that are bad: an error by name, or, where the spec says so, replaced, named, counted."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.host_batch import HostBatch
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.stream import Stream
from storage.errors import StoreError
from storage.shards.cache import ShardCache
from storage.store import Store
from tests.conftest import write_raw_folders
from tests.stream.bad_splits import overwrite

TABLE = np.array([0, 1, 2, 3] + [255] * 252, np.uint8)
COUNT = 12
HINT = r"Fix: .*set stream\.on_bad_sample: skip to train without it\."


@pytest.fixture
def packed(tmp_path: Path, store: Store) -> Store:
    """A store with twelve labelled samples in several shards."""
    write_raw_folders(tmp_path / "raw", COUNT, seed=3)
    pack("folders", tmp_path / "raw", store, "train", name="tiny", shard_bytes=30_000)
    return store


def stream_of(
    store: Store,
    tmp_path: Path,
    *,
    on_bad_sample: str = "skip",
    sampling: Sampling = "windows",
    size_hw: tuple[int, int] | None = None,
    draw: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
) -> Stream:
    config = {"on_bad_sample": on_bad_sample, "sampling": sampling, "window_shards": 2}
    config["rare_class_min_pixels"] = 100
    return Stream(
        PackedSplit(store, "train", ShardCache(tmp_path / "cache"), TABLE, size_hw),
        seed=4,
        domain=0,
        batch_size=4,
        augmentations=[AugmentConfig(flip=0.5, brightness=0.4)],
        config=StreamConfig.model_validate(config),
        rank=rank,
        num_ranks=num_ranks,
        draw=draw,
        planned_draws=30,
    )


def take(stream: Stream, count: int) -> list[HostBatch]:
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def keys_of(batches: Sequence[HostBatch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


@pytest.mark.parametrize(
    ("part", "message"),
    [("image", "the image cannot be decoded as qoi"), ("label", "the label cannot be decoded")],
)
def test_it_is_an_error_by_name_with_the_way_out(
    part: str, message: str, packed: Store, tmp_path: Path
) -> None:
    overwrite(packed, [f"{number:03d}" for number in range(COUNT)], part)
    stream = stream_of(packed, tmp_path, on_bad_sample="error")
    with pytest.raises(DataError, match=rf"packed/train/shard-\d+\.tar: \d+: {message}.*{HINT}"):
        next(stream)
    stream.close()


@pytest.mark.parametrize("sampling", ORDERS)
@pytest.mark.parametrize("part", ["image", "label"])
def test_skip_takes_the_next_draw_s_sample(
    part: str, sampling: Sampling, packed: Store, tmp_path: Path
) -> None:
    order = stream_of(packed, tmp_path, sampling=sampling)
    planned = keys_of(take(order, 8))
    bad = {planned[1], planned[2], planned[5]}
    overwrite(packed, sorted(bad), part)
    stream = stream_of(packed, tmp_path, sampling=sampling)
    found = keys_of(take(stream, 6))
    expected = [next(key for key in planned[draw:] if key not in bad) for draw in range(24)]
    assert found == expected
    assert stream.bad_samples == skipped_in(planned, bad, 24)


def skipped_in(planned: Sequence[str], bad: set[str], draws: int) -> int:
    """How many bad samples stand before the good one of each draw, each counted once a draw."""
    total = 0
    for draw in range(draws):
        good = next(place for place in range(draw, len(planned)) if planned[place] not in bad)
        total += len(set(planned[draw:good]))
    return total


def test_each_is_named_once(
    packed: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overwrite(packed, ["003", "007"], "image")
    stream = stream_of(packed, tmp_path)
    with caplog.at_level(logging.WARNING):
        take(stream, 4 * COUNT // 4)
    assert stream.bad_samples >= 8
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2 and all("skipped a bad sample: " in text for text in warnings)
    for key in ("003", "007"):
        assert sum(f".tar: {key}: the image cannot be decoded" in text for text in warnings) == 1


@pytest.mark.parametrize("sampling", ORDERS)
def test_ranks_and_resumed_runs_skip_alike(
    sampling: Sampling, packed: Store, tmp_path: Path
) -> None:
    overwrite(packed, ["001", "002", "008"], "label")
    whole = take(stream_of(packed, tmp_path, sampling=sampling), 8)
    rest = take(stream_of(packed, tmp_path, sampling=sampling, draw=4 * 5), 3)
    assert [batch.keys for batch in rest] == [batch.keys for batch in whole[5:]]
    assert all(np.array_equal(a.images, b.images) for a, b in zip(rest, whole[5:], strict=True))
    streams = [
        stream_of(packed, tmp_path, sampling=sampling, rank=rank, num_ranks=2) for rank in (0, 1)
    ]
    shared = [take(stream, 8) for stream in streams]
    assert [a.keys + b.keys for a, b in zip(*shared, strict=True)] == [b.keys for b in whole]


def test_where_all_are_bad_it_gives_up(packed: Store, tmp_path: Path) -> None:
    overwrite(packed, [f"{number:03d}" for number in range(COUNT)], "image")
    stream = stream_of(packed, tmp_path)
    with pytest.raises(
        DataError, match=r"100 draws in a row .* 12 of them\. The first: .*\.tar: \d+: the image"
    ):
        next(stream)
    stream.close()


def test_a_label_of_another_size_than_its_image_is_named(tmp_path: Path, store: Store) -> None:
    write_raw_folders(tmp_path / "raw", 3, seed=3)
    pack("folders", tmp_path / "raw", store, "train", name="tiny", encoding="original")
    stream = stream_of(store, tmp_path, on_bad_sample="error", size_hw=(24, 32))
    with pytest.raises(
        DataError, match=r"\d+: expected a label of \[24, 32\] .*got \[48, 64\]\. Fix: pack the sp"
    ):
        next(stream)
    stream.close()


def test_a_lost_shard_is_never_skipped(packed: Store, tmp_path: Path) -> None:
    manifest, _ = read_manifest(packed, "train")
    for shard in manifest.shards:
        packed.put(f"train/{shard.name}", b"short")
    stream = stream_of(packed, tmp_path)
    with pytest.raises(StoreError, match="truncated or damaged shard"):
        next(stream)
    stream.close()
