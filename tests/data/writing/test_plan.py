"""The plan: the order of the samples, wrong settings and bad raw files by name."""

from pathlib import Path

import pytest
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.errors import DataError, JobError
from storage.store import Store
from storage.stores import open_store
from tests.data.stored import MakeRaw, objects


def test_the_seed_alone_decides_the_order(make_raw: MakeRaw, tmp_path: Path) -> None:
    raw_dir = make_raw("gta5", 9)
    orders = []
    for seed in (0, 1):
        store = open_store(str(tmp_path / f"packed-{seed}"))
        pack("gta5", raw_dir, store, "train", seed=seed)
        orders.append(read_manifest(store, "train")[1].keys.tolist())
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) != orders[0]


def test_changed_raw_files_are_noticed(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    pack("gta5", raw_dir, store, "train")
    Image.new("RGB", (32, 18)).save(raw_dir / "images" / "00000.png")
    with pytest.raises(JobError, match=r"other raw files"):
        pack("gta5", raw_dir, store, "train")


def test_size_mismatches_and_broken_headers_are_listed_together(
    make_raw: MakeRaw, store: Store
) -> None:
    raw_dir = make_raw("gta5", 4)
    Image.new("P", (30, 18)).save(raw_dir / "labels" / "00001.png")
    (raw_dir / "images" / "00002.png").write_bytes(b"junk")
    with pytest.raises(DataError) as caught:
        pack("gta5", raw_dir, store, "train")
    message = str(caught.value)
    assert "2 bad files" in message
    assert "labels/00001.png: the label is 18x30, its image 18x32 pixels (HxW)" in message
    assert "images/00002.png: corrupt image" in message
    assert not objects(store)
    pack("gta5", raw_dir, store, "train", skip={"00001", "00002"})
    assert read_manifest(store, "train")[0].num_samples == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "../val"}, "--split: expected a name of letters, digits"),
        ({"split": "test"}, "--split: expected a split of gta5, got 'test'"),
        (
            {"encoding": "exakt"},
            "encoding: expected a known name, got 'exakt'; did you mean 'exact'",
        ),
        (
            {"size_hw": (0, 5)},
            r"--size-hw: expected a positive height and width in pixels, got \(0, 5\)",
        ),
        (
            {"encoding": "original", "size_hw": (9, 16)},
            "--size-hw: expected no size with --original, .*Fix: leave out --size-hw",
        ),
        ({"size_hw": (1, 40_000)}, "--size-hw: expected sides of at most 32768 .*got 1x40000"),
        ({"size_hw": (20_000, 20_000)}, "268435456 pixels in all, got 20000x20000"),
        ({"shard_bytes": 0}, "--shard-mb: expected a positive size, got 0 bytes"),
        ({"shard_bytes": 2**41}, "--shard-mb: expected at most 17179, got 2199023255552 bytes"),
        (
            {"label_space": LABEL_SPACES["camvid11"]},
            "classes: expected ids for dataset 'gta5' in at least one class",
        ),
        (
            {"label_space": LABEL_SPACES["cityscapes19"], "unlabelled": True},
            "--classes: expected labels to map, got images alone",
        ),
        ({"dataset": "gta"}, "dataset: expected a raw layout, got 'gta'; did you mean 'gta5'"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, object], message: str, make_raw: MakeRaw, store: Store
) -> None:
    call = {"dataset": "gta5", "raw_dir": make_raw("gta5"), "store": store, "split": "train"}
    with pytest.raises(JobError, match=message):
        pack(**(call | arguments))  # type: ignore[arg-type]


def test_a_missing_raw_folder_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: expected a folder with images/.*, got none\. Fix: "
    ):
        pack("gta5", tmp_path / "nowhere", store, "train")


def test_images_that_readers_would_refuse_are_not_packed(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    for folder, mode in (("images", "RGB"), ("labels", "P")):
        Image.new(mode, (32_769, 2)).save(raw_dir / folder / "00001.png")
    message = (
        r"images/00001.png: the image is 2x32769 pixels \(HxW\), expected sides of at most 32768"
    )
    with pytest.raises(DataError, match=message):
        pack("gta5", raw_dir, store, "train")
