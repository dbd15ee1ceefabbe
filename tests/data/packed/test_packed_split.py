"""Reading a packed split: statistics without labels, sizes that disagree, labels left shut."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.batch import IGNORED
from adapt.data.datasets import DATASETS
from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.stream import Stream
from storage.shards.cache import ShardCache
from storage.store import Store
from tests.stream.bad_splits import overwrite, rewrite

MakeRaw = Callable[..., Path]


@pytest.fixture
def opened(make_raw: MakeRaw, store: Store, tmp_path: Path) -> Callable[..., PackedSplit]:
    """opened(dataset, classes) -> five packed samples, with the train ids of a label space."""

    def open_split(dataset: str, classes: str | None) -> PackedSplit:
        pack(dataset, make_raw(dataset, 5), store, "train", shard_bytes=2_000, workers=1)
        table = LABEL_SPACES[classes].table(dataset) if classes else None
        return PackedSplit(store, "train", ShardCache(tmp_path / "cache"), table)

    return open_split


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [("cityscapes", "cityscapes19"), ("synthia", "cityscapes16"), ("camvid", "camvid11")],
)
def test_label_pixels_are_those_of_the_labels(
    dataset: str, classes: str, opened: Callable[..., PackedSplit]
) -> None:
    split, num_classes = opened(dataset, classes), LABEL_SPACES[classes].num_classes
    found = split.label_pixels(num_classes)
    assert found.dtype == np.int64 and found.shape == (5, num_classes)
    for sample in range(5):
        labels = split.read(sample).labels
        assert labels is not None
        counted = np.bincount(labels.numpy().ravel(), minlength=256)
        assert found[sample].tolist() == counted[:num_classes].tolist()
        assert counted[IGNORED] == 18 * 32 - found[sample].sum() > 0


def test_label_pixels_open_no_label(opened: Callable[..., PackedSplit], store: Store) -> None:
    before = opened("camvid", "camvid11").label_pixels(11)
    for entry in list(store.list("train/shard-")):
        store.delete(entry.key)
    assert np.array_equal(opened("camvid", "camvid11").label_pixels(11), before)


def test_label_pixels_of_a_split_without_labels(opened: Callable[..., PackedSplit]) -> None:
    with pytest.raises(DataError, match=r"packed/train: expected labels, .* opened without"):
        opened("camvid", None).label_pixels(11)


def test_an_image_of_another_size_than_its_label_is_named(
    opened: Callable[..., PackedSplit], store: Store, tmp_path: Path
) -> None:
    opened("camvid", None)
    _, index = read_manifest(store, "train")
    rewrite(store, height_px=index.width_px, width_px=index.height_px)
    table = LABEL_SPACES["camvid11"].table("camvid")
    split = PackedSplit(store, "train", ShardCache(tmp_path / "cache"), table)
    with pytest.raises(DataError, match=rf"train/shard-00000.tar: {index.keys[0]}: .*\[32, 18\]"):
        split.read(0)


@pytest.mark.parametrize("labels", ["junk", "none"])
def test_a_target_s_labels_are_never_opened(
    labels: str, make_raw: MakeRaw, store: Store, tmp_path: Path
) -> None:
    raw_dir = make_raw("cityscapes", 5)
    for path in raw_dir.rglob("*_labelIds.png") if labels == "none" else ():
        path.write_bytes(b"junk")
    pack("cityscapes", raw_dir, store, "train", unlabelled=labels == "none")
    _, index = read_manifest(store, "train")
    if labels == "junk":
        overwrite(store, index.keys.tolist(), "label")
        table = LABEL_SPACES["cityscapes19"].table("cityscapes")
        with pytest.raises(DataError, match="the label cannot be decoded"):
            PackedSplit(store, "train", ShardCache(tmp_path), table).read(0)
    target = PackedSplit(store, "train", ShardCache(tmp_path), id_table=None)
    stream = Stream(
        target,
        seed=1,
        domain=1,
        batch_size=5,
        augmentations=[AugmentConfig()],
        config=StreamConfig(),
    )
    batch = next(stream)
    stream.close()
    assert batch.labels is None and sorted(batch.keys) == sorted(index.keys.tolist())


@pytest.mark.parametrize("folder", ["GT/LABELS", "parsed_LABELS"])
@pytest.mark.parametrize("classes", ["cityscapes16", "cityscapes19"])
def test_synthia_reads_as_the_papers_ids(
    folder: str, classes: str, make_raw: MakeRaw, store: Store, tmp_path: Path
) -> None:
    raw_dir, layout = make_raw("synthia"), DATASETS["synthia"]
    ids = layout.read_label(raw_dir / "GT/LABELS/00000.png")
    if folder == "parsed_LABELS":
        (raw_dir / "GT/LABELS").rename(raw_dir / folder)
        for path in (raw_dir / folder).iterdir():
            Image.fromarray(layout.read_label(path)).save(path)
    pack("synthia", raw_dir, store, "train")
    table = LABEL_SPACES[classes].table("synthia")
    split = PackedSplit(store, "train", ShardCache(tmp_path / "cache"), table)
    labels = split.read(split.index.keys.tolist().index("00000")).labels
    papers = PAPERS_SYNTHIA[classes]
    assert labels is not None and labels.tolist() == [
        [papers.get(identity, IGNORED) for identity in row] for row in ids.tolist()
    ]


PAPERS_SYNTHIA = {
    "cityscapes16": {
        3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 9, 10: 10, 17: 11, 8: 12, 19: 13,
        12: 14, 11: 15,
    },
    "cityscapes19": {
        3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13,
        18: 14, 19: 15, 20: 16, 12: 17, 11: 18,
    },
}  # fmt: skip
"""DADA's table, and the one of BDL and CLAN."""
