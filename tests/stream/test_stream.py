"""Streams: the same samples whatever the ranks and threads, a state of one number, faults by
name."""

import json
from collections import Counter
from concurrent.futures import Future, wait
from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from adapt.batch import PixelFormat
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.errors import DataError, Interrupted, JobError
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.feed import Feed, normalise, to_device
from adapt.stream.host_batch import Decoded, HostBatch
from adapt.stream.orders import ORDERS, Sampling
from adapt.stream.state import check_state
from adapt.stream.stream import Stream
from storage.errors import StoreError
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.conftest import write_raw_folders

TABLE = np.array([0, 1, 2, 3] + [255] * 252, np.uint8)
EVERY_ORDER = pytest.mark.parametrize("sampling", ORDERS)
AUGMENTATION = AugmentConfig(flip=0.5, brightness=0.4, crop_hw=(32, 40))


def split_of(uri: str, tmp_path: Path, table: np.ndarray | None = TABLE) -> PackedSplit:
    return PackedSplit(Stores().open(uri), "train", ShardCache(tmp_path / "cache"), table)


def stream_of(
    uri: str,
    tmp_path: Path,
    *,
    draw: int = 0,
    rank: int = 0,
    ranks: int = 1,
    batch_size: int = 4,
    augmentation: AugmentConfig = AUGMENTATION,
    table: np.ndarray | None = TABLE,
    for_device: bool = False,
    stop: Event | None = None,
    **config: object,
) -> Stream:
    fields = {"window_shards": 2, "rare_class_min_pixels": 100} | config
    return Stream(
        split_of(uri, tmp_path, table),
        seed=9,
        domain=0,
        batch_size=batch_size,
        augmentations=[augmentation],
        config=StreamConfig.model_validate(fields),
        rank=rank,
        num_ranks=ranks,
        draw=draw,
        planned_draws=40,
        for_device=for_device,
        stop=stop,
    )


def batches(
    uri: str, tmp_path: Path, count: int, *, draw: int = 0, **settings: object
) -> list[HostBatch]:
    stream = stream_of(uri, tmp_path, draw=draw, **settings)  # type: ignore[arg-type]
    got = [next(stream) for _ in range(count)]
    assert stream.draw == draw + 4 * count
    stream.close()
    return got


def pixels(got: list[HostBatch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in got])


@EVERY_ORDER
def test_threads_do_not_change_the_samples(
    tiny_uri: str, tmp_path: Path, sampling: Sampling
) -> None:
    one = batches(tiny_uri, tmp_path, 12, threads=1, sampling=sampling)
    three = batches(tiny_uri, tmp_path, 12, threads=3, sampling=sampling)
    assert torch.equal(pixels(one), pixels(three))
    assert [batch.keys for batch in one] == [batch.keys for batch in three]


@EVERY_ORDER
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_out_what_one_rank_draws(
    tiny_uri: str, tmp_path: Path, ranks: int, sampling: Sampling
) -> None:
    alone = batches(tiny_uri, tmp_path, 12, sampling=sampling)
    shared = [
        batches(tiny_uri, tmp_path, 12, rank=rank, ranks=ranks, sampling=sampling)
        for rank in range(ranks)
    ]
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in shared]
        assert batch.keys == tuple(key for part in parts for key in part.keys)
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))


@EVERY_ORDER
def test_a_stream_goes_on_from_its_draw_number(
    tiny_uri: str, tmp_path: Path, sampling: Sampling
) -> None:
    whole = batches(tiny_uri, tmp_path, 12, sampling=sampling)
    rest = batches(tiny_uri, tmp_path, 5, draw=4 * 7, sampling=sampling)
    assert torch.equal(pixels(whole[7:]), pixels(rest))


def test_an_epoch_holds_every_sample(tiny_uri: str, tmp_path: Path) -> None:
    keys = [key for batch in batches(tiny_uri, tmp_path, 11) for key in batch.keys]
    assert len(set(keys[:22])) == 22 and len(set(keys[22:])) == 22


def test_the_papers_sampling_repeats_the_list_for_the_planned_draws(
    tiny_uri: str, tmp_path: Path
) -> None:
    keys = [key for got in batches(tiny_uri, tmp_path, 11, sampling="papers") for key in got.keys]
    assert set(Counter(keys).values()) == {2} and len(keys) == 44
    assert len(set(keys[:22])) < 22


def test_labels_are_mapped_and_may_stay_unread(tiny_uri: str, tmp_path: Path) -> None:
    table = np.full(256, 255, np.uint8)
    table[2] = 1
    labelled = split_of(tiny_uri, tmp_path, table).read(0)
    assert labelled.labels is not None and set(labelled.labels.unique().tolist()) == {1, 255}
    assert split_of(tiny_uri, tmp_path, None).read(0).labels is None


def test_normalise_matches_the_pixel_format() -> None:
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    rgb = normalise(images, PixelFormat((0.5, 0.5, 0.5), (0.5, 0.25, 0.5)))
    assert rgb.flatten().tolist() == pytest.approx([10 / 127.5 - 1, 20 / 63.75 - 2, 30 / 127.5 - 1])
    bgr = normalise(images, PixelFormat((1.0, 2.0, 3.0), (1.0, 1.0, 1.0), bgr=True))
    assert bgr.flatten().tolist() == [29.0, 18.0, 7.0]


def test_to_device_gives_float_images_and_long_labels(tiny_uri: str, tmp_path: Path) -> None:
    batch = batches(tiny_uri, tmp_path, 1)[0]
    moved = to_device(batch, PixelFormat((0, 0, 0), (1, 1, 1)), torch.device("cpu"))
    assert moved.images.dtype == torch.float32 and moved.images.max() <= 1
    assert moved.labels is not None and moved.labels.dtype == torch.int64
    assert moved.keys == batch.keys


def test_images_of_different_sizes_are_refused_by_name(tmp_path: Path) -> None:
    for part, size_hw in (("wide", (48, 64)), ("tall", (64, 48))):
        write_raw_folders(tmp_path / part, 1, seed=1, size_hw=size_hw)
        for kind in ("images", "labels"):
            (tmp_path / "raw" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / kind / "000.png").rename(tmp_path / "raw" / kind / f"{part}.png")
    uri = str(tmp_path / "packed")
    pack("folders", tmp_path / "raw", Stores().open(uri), "train", name="tiny")
    stream = stream_of(uri, tmp_path, batch_size=2, augmentation=AugmentConfig())
    with (
        closing(stream),
        pytest.raises(DataError, match=r"one size in a batch, got \[.*wide.*\. Fix: set size"),
    ):
        next(stream)
    cropped = stream_of(uri, tmp_path, batch_size=2)
    with closing(cropped):
        assert next(cropped).images.shape == (2, 3, 32, 40)


@EVERY_ORDER
def test_changes_on_the_device_are_those_made_by_the_threads(
    tiny_uri: str, tmp_path: Path, sampling: Sampling
) -> None:
    grey = PixelFormat((0, 0, 0), (1, 1, 1))
    ours, theirs = (
        stream_of(tiny_uri, tmp_path, sampling=sampling, for_device=for_device)
        for for_device in (False, True)
    )
    with closing(ours), closing(theirs):
        for _ in range(4):
            host, raw = next(ours), next(theirs)
            device = to_device(raw, grey, torch.device("cpu"))
            assert raw.images.shape[-2:] == (48, 64) and host.keys == raw.keys == device.keys
            assert torch.equal(normalise(host.images, grey), device.images)
            assert host.labels is not None and device.labels is not None
            assert torch.equal(host.labels.long(), device.labels)


def test_what_was_handed_out_counts_not_what_is_under_way(tiny_uri: str, tmp_path: Path) -> None:
    stream = stream_of(tiny_uri, tmp_path, draw=8)
    feed = Feed(stream, PixelFormat((0, 0, 0), (1, 1, 1)), torch.device("cpu"))
    with closing(stream):
        assert feed.draw == 8
        next(feed)
        assert feed.draw == feed.state()["draw"] == 12
        feed._coming = feed._start()  # as a GPU has it
        assert feed.draw == 12 and stream.draw == 16
        coming = feed._coming[0]
        assert next(feed) is coming and feed.draw == 16


def test_a_batch_that_is_not_ready_is_not_waited_for(tiny_uri: str, tmp_path: Path) -> None:
    stream = stream_of(tiny_uri, tmp_path, prefetch_batches=1)
    with closing(stream):
        assert not stream.next_is_ready
        next(stream)
        wait(stream._ready[0][1])
        assert stream.next_is_ready
        broken: Future[Decoded] = Future()
        stream._ready[0][1][0] = broken
        assert not stream.next_is_ready
        broken.set_exception(DataError("beyond the schedule"))
        assert not stream.next_is_ready


def test_a_stop_ends_a_wait_for_data(tiny_uri: str, tmp_path: Path) -> None:
    stop = Event()
    stream = stream_of(tiny_uri, tmp_path, stop=stop)
    with closing(stream):
        next(stream)
        stream._ready[0][1][0] = Future()
        stop.set()
        with pytest.raises(Interrupted, match="stopped while waiting for data"):
            next(stream)


def test_a_stream_s_state_is_small_and_of_one_data_set(tiny_uri: str, tmp_path: Path) -> None:
    with closing(stream_of(tiny_uri, tmp_path)) as stream:
        state = stream.state(10**9)
    assert len(json.dumps(state)) < 300
    check_state(state, state | {"draw": 0}, "source")
    for name, value in [("dataset_id", "f" * 64), ("seed", 1), ("batch_size", 8)]:
        message = rf"source: expected {name} {state[name]!r}, with .*, got {value!r}.*--fresh"
        with pytest.raises(JobError, match=message):
            check_state(state, state | {name: value}, "source")


def test_batches_ready_are_bounded_by_their_bytes(tiny_uri: str, tmp_path: Path) -> None:
    size_bytes = 48 * 64 * 4 * 4
    for decoded_mb, ready in [(1, 1_000_000 // size_bytes), (256, 31)]:
        stream = stream_of(tiny_uri, tmp_path, prefetch_batches=30, decoded_mb=decoded_mb)
        with closing(stream):
            next(stream)
            assert len(stream._ready) == ready - 1


def test_shards_are_let_go_of_behind_the_plan(tiny_uri: str, tmp_path: Path) -> None:
    stream = stream_of(tiny_uri, tmp_path, batch_size=1, prefetch_batches=1, window_shards=1)
    with closing(stream):
        for _ in range(60):
            next(stream)
            assert len(stream.split._shards) <= 3 < len(stream.split.shard_sizes)


def test_rare_classes_need_a_sample_that_shows_one(tiny_uri: str, tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"stream.rare_class_min_pixels: expected less than \d+, the"
    ):
        stream_of(tiny_uri, tmp_path, sampling="rare_classes", rare_class_min_pixels=3000)


def test_without_labels_rare_classes_are_windows(tiny_uri: str, tmp_path: Path) -> None:
    keys = [
        [batch.keys for batch in batches(tiny_uri, tmp_path, 6, sampling=sampling, table=None)]
        for sampling in ("rare_classes", "windows")
    ]
    assert keys[0] == keys[1]


def test_another_size_than_packed_is_refused(tmp_path: Path, raw_and_packed: str) -> None:
    with pytest.raises(
        DataError, match=r"expected size_hw \[24, 32\] as packed, got \[48, 64\]\. Fix: "
    ):
        PackedSplit(Stores().open(raw_and_packed), "train", ShardCache(tmp_path), TABLE, (48, 64))


@pytest.fixture
def raw_and_packed(tmp_path: Path) -> str:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    store = Stores().open(str(tmp_path / "packed"))
    pack("folders", tmp_path / "raw", store, "train", name="tiny", size_hw=(24, 32))
    return str(tmp_path / "packed")


def test_originals_are_resized_as_they_are_read(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    store = Stores().open(str(tmp_path / "packed"))
    pack("folders", tmp_path / "raw", store, "train", name="tiny", encoding="original")
    read = PackedSplit(store, "train", ShardCache(tmp_path), TABLE, (24, 32)).read(0)
    assert read.image.shape == (3, 24, 32)
    assert read.labels is not None and read.labels.shape == (48, 64)


def test_labels_asked_for_where_there_are_none(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    store = Stores().open(str(tmp_path / "packed"))
    pack("folders", tmp_path / "raw", store, "train", name="tiny", unlabelled=True)
    with pytest.raises(
        DataError, match=r"expected labels, got a split packed without\. Fix: pack it again"
    ):
        PackedSplit(store, "train", ShardCache(tmp_path), TABLE)


def test_a_truncated_shard_is_refused_by_name(raw_and_packed: str, tmp_path: Path) -> None:
    shard = Path(raw_and_packed) / "train" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    split = split_of(raw_and_packed, tmp_path)
    with pytest.raises(StoreError, match=r"shard-00000\.tar"):
        split.read(0)
