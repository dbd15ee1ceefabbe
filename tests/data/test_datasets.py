"""Raw layouts: the contract over every row of `DATASETS`, then what is special in some, and bad
files by name.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.datasets import DATASETS, known_layout, refuse_unknown_ids
from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import DataError, JobError
from tests.data.conftest import NUM_IDS

MakeRaw = Callable[..., Path]
ROWS = pytest.mark.parametrize("dataset", DATASETS)


@ROWS
def test_pairs_and_ids_come_back(dataset: str, make_raw: MakeRaw) -> None:
    layout = DATASETS[dataset]
    samples = layout.pairs(make_raw(dataset), "train")
    assert [sample.key[-5:] for sample in samples] == ["00000", "00001", "00002"]
    for number, sample in enumerate(samples):
        assert sample.label_path is not None
        rng = np.random.default_rng(number)
        images = rng.integers(0, 256, (18, 32, 3), np.uint8)
        assert np.array_equal(np.asarray(Image.open(sample.image_path)), images)
        ids = layout.read_label(sample.label_path)
        assert ids.dtype == np.uint8 and "." not in sample.key and "/" not in sample.key
        assert np.array_equal(ids, rng.integers(0, NUM_IDS[dataset], (18, 32)))
        refuse_unknown_ids(np.unique(ids).tolist(), layout, sample.label_path)


@ROWS
def test_unlabelled_needs_no_labels(dataset: str, make_raw: MakeRaw) -> None:
    layout, raw_dir = DATASETS[dataset], make_raw(dataset)
    for sample in layout.pairs(raw_dir, "train"):
        assert sample.label_path is not None
        sample.label_path.unlink()
    samples = layout.pairs(raw_dir, "train", unlabelled=True)
    assert len(samples) == 3 and all(sample.label_path is None for sample in samples)


@ROWS
def test_all_unpaired_files_are_listed(dataset: str, make_raw: MakeRaw) -> None:
    layout, raw_dir = DATASETS[dataset], make_raw(dataset)
    samples = layout.pairs(raw_dir, "train")
    assert samples[0].label_path is not None
    samples[0].label_path.unlink()
    samples[1].image_path.unlink()
    with pytest.raises(DataError) as caught:
        layout.pairs(raw_dir, "train")
    message = str(caught.value)
    assert "2 bad files" in message and "--skip" in message and "--unlabelled" in message
    assert f"{samples[0].image_path}: image without label" in message
    assert f"{samples[1].label_path}: label without image" in message
    skipped = layout.pairs(raw_dir, "train", skip=(samples[0].key, samples[1].key))
    assert [sample.key for sample in skipped] == [samples[2].key]


@ROWS
def test_an_empty_folder_says_what_is_expected(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected .*/.*, got no images of split 'train'\. Fix: "):
        DATASETS[dataset].pairs(tmp_path, "train")


@ROWS
def test_corrupt_labels_are_refused_by_name(dataset: str, make_raw: MakeRaw) -> None:
    layout = DATASETS[dataset]
    path = layout.pairs(make_raw(dataset), "train")[0].label_path
    assert path is not None
    whole = path.read_bytes()
    for damaged in (b"", b"junk", whole[: len(whole) // 2], whole[:50] + b"\x55\xaa" + whole[52:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{path.name}: corrupt label"):
            layout.read_label(path)


@ROWS
def test_built_in_label_spaces_map_known_ids_only(dataset: str) -> None:
    known = DATASETS[dataset].known_ids
    for space in LABEL_SPACES.values():
        assert known is None or set(space.ids.get(dataset, {})) <= known


def test_ten_problems_are_shown_and_the_rest_counted(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("gta5", 14)
    for path in (raw_dir / "labels").iterdir():
        path.unlink()
    with pytest.raises(DataError) as caught:
        DATASETS["gta5"].pairs(raw_dir, "train")
    assert str(caught.value).count("without label") == 10 and "... and 4 more" in str(caught.value)


def test_folders_without_labels_are_unlabelled(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("folders")
    for path in (raw_dir / "labels").iterdir():
        path.unlink()
    assert [s.label_path for s in DATASETS["folders"].pairs(raw_dir, "train")] == [None] * 3


def test_folders_below_a_split(make_raw: MakeRaw, tmp_path: Path) -> None:
    (tmp_path / "town").mkdir()
    make_raw("folders").rename(tmp_path / "town" / "val")
    samples = DATASETS["folders"].pairs(tmp_path / "town", "val")
    assert [sample.key for sample in samples] == ["00000", "00001", "00002"]
    assert samples[0].label_path == tmp_path / "town" / "val" / "labels" / "00000.png"


def test_nested_and_dotted_names_become_keys(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("folders", 1)
    for kind in ("images", "labels"):
        (raw_dir / kind / "day").mkdir()
        (raw_dir / kind / "00000.png").rename(raw_dir / kind / "day" / "t0.5.png")
    assert DATASETS["folders"].pairs(raw_dir, "train")[0].key == "day_t0-5"


def test_two_images_of_one_key_are_refused(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("folders", 1)
    Image.new("RGB", (32, 18)).save(raw_dir / "images" / "00000.jpg")
    with pytest.raises(
        DataError, match=r"00000.png: expected a key of its own, got '00000' as of .*00000.jpg"
    ):
        DATASETS["folders"].pairs(raw_dir, "train")


@pytest.mark.parametrize("dataset", ["gta5", "synthia", "folders"])
def test_lists_pick_a_split(dataset: str, make_raw: MakeRaw) -> None:
    raw_dir = make_raw(dataset)
    (raw_dir / "val.txt").write_text("00001.png\n\n00002.png labels/00002.png\n")
    keys = [sample.key for sample in DATASETS[dataset].pairs(raw_dir, "val")]
    assert keys == ["00001", "00002"]
    (raw_dir / "val.txt").write_text("00009.png\n")
    with pytest.raises(
        DataError, match=r"val.txt, line 1: expected an image of the raw folder, got '00009.png'"
    ):
        DATASETS[dataset].pairs(raw_dir, "val")


def test_a_split_without_list_is_refused(make_raw: MakeRaw) -> None:
    with pytest.raises(
        JobError, match=r"--split: expected the list .*val.txt for split 'val', got none\. Fix: "
    ):
        DATASETS["gta5"].pairs(make_raw("gta5"), "val")


def test_synthia_reads_all_16_bits(
    make_raw: MakeRaw, deep_png: Callable[[np.ndarray], bytes]
) -> None:
    path = make_raw("synthia", 1) / "GT" / "LABELS" / "00000.png"
    path.write_bytes(deep_png(np.full((4, 5, 3), 256 + 3)))
    with pytest.raises(
        DataError, match=r"00000.png: expected ids from 0 to 255 in the label, got 259"
    ):
        DATASETS["synthia"].read_label(path)


def test_synthia_parsed_labels(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("synthia", 1)
    layout = DATASETS["synthia"]
    ids = layout.read_label(raw_dir / "GT" / "LABELS" / "00000.png")
    (raw_dir / "GT" / "LABELS").rename(raw_dir / "parsed_LABELS")
    Image.fromarray(ids).save(raw_dir / "parsed_LABELS" / "00000.png")
    path = layout.pairs(raw_dir, "train")[0].label_path
    assert path == raw_dir / "parsed_LABELS" / "00000.png"
    assert np.array_equal(layout.read_label(path), ids)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_pictures_are_no_labels(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=rf"a.png: expected a single-channel PNG of ids, got mode {mode}"
    ):
        DATASETS["folders"].read_label(tmp_path / "a.png")


def test_grey_labels_of_16_bits(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint16).reshape(3, 4)
    Image.fromarray(ids).save(tmp_path / "a.png")
    assert np.array_equal(DATASETS["folders"].read_label(tmp_path / "a.png"), ids)
    Image.fromarray(ids + 250).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: expected ids from 0 to 255 in the label, got 261"):
        DATASETS["folders"].read_label(tmp_path / "a.png")


def test_unknown_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"x.png: expected ids from 0 to 33 in the label, got 34, 77\. Fix: "
    ):
        refuse_unknown_ids([7, 77, 34], DATASETS["cityscapes"], tmp_path / "x.png")


def test_unknown_layout() -> None:
    with pytest.raises(JobError, match=r"dataset: .*got 'cityscape'; did you mean 'cityscapes'"):
        known_layout("cityscape")


@pytest.mark.parametrize(("split", "count"), [("train", 184), ("val", 51), ("test", 117)])
def test_real_camvid(shared_dir: Path, split: str, count: int) -> None:
    layout = DATASETS["camvid"]
    samples = layout.pairs(shared_dir / "data" / "camvid", split)
    assert len(samples) == count and samples[0].label_path is not None
    ids = layout.read_label(samples[0].label_path)
    assert ids.shape == (360, 480) and set(np.unique(ids)) <= set(range(12))


def test_real_airsim(shared_dir: Path) -> None:
    samples = DATASETS["folders"].pairs(shared_dir / "data" / "airsim", "train")
    assert len(samples) == 456 and all(sample.label_path for sample in samples)


def test_real_cityscapes_ids(shared_dir: Path) -> None:
    layout = DATASETS["cityscapes"]
    samples = layout.pairs(shared_dir / "data" / "cityscapes", "train")
    assert len(samples) == 8 and samples[0].key == "aachen_000000_000019"
    for sample in samples[:2]:
        assert sample.label_path is not None
        ids = layout.read_label(sample.label_path)
        assert ids.shape == (1024, 2048)
        refuse_unknown_ids(np.unique(ids).tolist(), layout, sample.label_path)
