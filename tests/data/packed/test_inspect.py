"""`inspect`: numbers against counts made by hand, and a contact sheet with the right colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapt.cli.tables import inspection_table
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed.inspect import contact_sheet, inspect
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.errors import DataError, JobError
from storage.store import Store
from storage.stores import open_store
from tests.stream.bad_splits import rewrite

CAMVID = LABEL_SPACES["camvid11"]


@pytest.fixture
def halves(tmp_path: Path, store: Store) -> Store:
    """One CamVid sample of 10x20: upper half sky (0), lower half void (11); a second one all road
    (3), 20x20.
    """
    for folder in ("train", "trainannot"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    ids = np.repeat(np.array([0, 11], np.uint8), 5)[:, None].repeat(20, axis=1)
    for name, label in (("a", ids), ("b", np.full((20, 20), 3, np.uint8))):
        Image.fromarray(label).save(tmp_path / "raw" / "trainannot" / f"{name}.png")
        picture = Image.new("RGB", label.shape[::-1], (200, 100, 50))
        picture.save(tmp_path / "raw" / "train" / f"{name}.png")
    pack("camvid", tmp_path / "raw", store, "train")
    return store


def test_numbers(halves: Store) -> None:
    inspection = inspect(halves, "train", CAMVID)
    assert (inspection.num_samples, inspection.num_shards) == (2, 1)
    assert (inspection.min_hw, inspection.median_hw, inspection.max_hw) == (
        (10, 20),
        (15, 20),
        (20, 20),
    )
    assert inspection.id_shares == pytest.approx({0: 1 / 6, 3: 4 / 6, 11: 1 / 6})
    assert inspection.samples_with_id == {0: 1, 3: 1, 11: 1}
    assert inspection.class_shares is not None
    assert list(inspection.class_shares) == [*CAMVID.names, "ignored"]
    assert inspection.class_shares["road"] == pytest.approx(4 / 6)
    assert inspection.class_shares["ignored"] == pytest.approx(1 / 6)
    assert inspection.size_bytes == sum(entry.size_bytes for entry in halves.list("train/shard-"))


def test_no_label_space_no_class_shares(halves: Store) -> None:
    assert inspect(halves, "train").class_shares is None


def test_a_label_space_without_the_dataset_is_refused(halves: Store) -> None:
    with pytest.raises(JobError, match=r"classes: expected ids for dataset 'camvid'"):
        inspect(halves, "train", LABEL_SPACES["cityscapes19"])


def test_unlabelled(make_raw: Callable[..., Path], store: Store) -> None:
    pack("folders", make_raw("folders"), store, "train", unlabelled=True)
    inspection = inspect(store, "train", CAMVID)
    assert inspection.class_shares is None and inspection.id_shares == {}
    assert contact_sheet(store, "train", columns=3, width_px=32).size == (3 * 36, 22)


@pytest.mark.parametrize("label_space", [CAMVID, None])
def test_contact_sheet(halves: Store, label_space: LabelSpace | None) -> None:
    sheet = np.asarray(contact_sheet(halves, "train", label_space, columns=1, width_px=20))
    assert sheet.shape == (2 * 24, 44, 3)
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {(200, 100, 50), (255, 255, 255)} <= colours
    assert {CAMVID.colours[0], CAMVID.colours[3]} <= colours, "the dataset is known"
    if label_space is not None:
        expected = {label_space.colours[0], label_space.colours[3], (0, 0, 0)}
        assert colours == expected | {(200, 100, 50), (255, 255, 255)}


def test_an_image_of_another_size_than_the_index_says_is_named(halves: Store) -> None:
    _, index = read_manifest(halves, "train")
    rewrite(halves, height_px=index.width_px, width_px=index.height_px)
    with pytest.raises(DataError, match=r"shard-00000.tar: a: expected an image of \[20, 10\]"):
        contact_sheet(halves, "train")


def test_contact_sheet_of_a_missing_split(store: Store) -> None:
    with pytest.raises(DataError, match=r"train/manifest.json: expected the file, got none"):
        contact_sheet(store, "train")


@pytest.mark.parametrize("asked", [CAMVID, None])
def test_train_ids_show_as_classes(asked: LabelSpace | None, halves: Store, tmp_path: Path) -> None:
    by_ids = inspect(halves, "train", CAMVID)
    sheet = contact_sheet(halves, "train", CAMVID, columns=1, width_px=20)
    store = open_store(str(tmp_path / "train_ids"))
    pack("camvid", tmp_path / "raw", store, "train", label_space=CAMVID)
    found = inspect(store, "train", asked)
    assert found.class_shares == by_ids.class_shares
    assert found.samples_with_id == {0: 1, 3: 1, 255: 1}
    assert found.id_shares == pytest.approx({0: 1 / 6, 3: 4 / 6, 255: 1 / 6})
    assert contact_sheet(store, "train", asked, columns=1, width_px=20) == sheet


def test_train_ids_of_classes_without_a_name(halves: Store, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "train_ids"))
    custom = LabelSpace((CAMVID.root[3], CAMVID.root[0]))
    pack("camvid", tmp_path / "raw", store, "train", label_space=custom)
    found = inspect(store, "train")
    assert found.class_shares == pytest.approx({"road": 4 / 6, "sky": 1 / 6, "ignored": 1 / 6})
    sheet = np.asarray(contact_sheet(store, "train", columns=1, width_px=20))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {(0, 0, 0), CAMVID.colours[3], CAMVID.colours[0]} <= colours and len(colours) == 5
    for show in (inspect, contact_sheet):
        with pytest.raises(
            DataError, match=r"classes sky, b.*, got train ids of custom \(road, sky\)\. Fix: "
        ):
            show(store, "train", CAMVID)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "camvid's own ids"),
        ({"label_space": CAMVID}, "train ids of camvid11, 11 classes"),
        ({"unlabelled": True}, "none"),
    ],
)
def test_the_table_says_what_labels_hold(
    options: dict[str, Any], words: str, make_raw: Callable[..., Path], store: Store
) -> None:
    pack("camvid", make_raw("camvid"), store, "train", **options)
    table = inspection_table("uri", inspect(store, "train"))
    cells = dict(zip(*(column.cells for column in table.columns), strict=True))
    assert cells["labels"] == words
