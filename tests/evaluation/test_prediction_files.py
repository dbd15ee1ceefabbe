"""Prediction files: names, sizes, ids and colours, for labelled and unlabelled splits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.errors import JobError
from adapt.evaluation.inference import EnsembleMember, class_map, predict
from adapt.evaluation.prediction_files import ids_of_classes, write_predictions
from storage.shards.cache import ShardCache
from storage.stores import open_store
from tests.networks import varied_network

CPU = torch.device("cpu")
SPACE = LABEL_SPACES["cityscapes19"]
KEYS = ["bonn_000000_000019", "bonn_000001_000019", "jena_000000_000019"]
IMAGE_HW = (24, 40)

OpenSplit = Callable[..., PackedSplit]


@pytest.fixture
def open_test(tmp_path: Path) -> Iterator[OpenSplit]:
    """open_test(...) -> an unlabelled Cityscapes-like split `test` of three images of 24x40."""
    opened = []

    def open_(
        encoding: str = "original",
        packed_hw: tuple[int, int] | None = None,
        size_hw: tuple[int, int] | None = None,
        name: str = "cityscapes",
    ) -> PackedSplit:
        for number, key in enumerate(KEYS):
            city = key.split("_")[0]
            path = tmp_path / "raw" / "leftImg8bit" / "test" / city / f"{key}_leftImg8bit.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (*IMAGE_HW, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        store = open_store(str(tmp_path / "packed"))
        pack(
            "cityscapes",
            tmp_path / "raw",
            store,
            "test",
            encoding=encoding,
            size_hw=packed_hw,
            name=name,
            unlabelled=True,
        )
        split = PackedSplit(store, "test", ShardCache(tmp_path / "cache"), None, size_hw)
        opened.append(split)
        return split

    yield open_
    for split in opened:
        split.close()


def pixels_of(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == mode
        return np.array(image)


def test_files_are_ids_at_the_image_s_own_size(open_test: OpenSplit, tmp_path: Path) -> None:
    """Predicted at 12x20, written at 24x40."""
    split, segmenter, seen = open_test(size_hw=(12, 20)), varied_network(19), []
    out = tmp_path / "new" / "results"

    def on_image(done: int, total: int) -> None:
        seen.append((done, total))

    assert write_predictions(segmenter, split, out, SPACE, CPU, on_image=on_image) == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in out.iterdir()) == [f"{key}.png" for key in KEYS]
    ids = ids_of_classes(SPACE, "cityscapes")
    for number in range(3):
        with torch.no_grad():
            logits = predict([EnsembleMember(segmenter)], split.read(number).image, IMAGE_HW, CPU)
        written = pixels_of(out / f"{split.key(number)}.png", "L")
        np.testing.assert_array_equal(written, ids[class_map(logits).numpy()])
        assert len(np.unique(written)) > 5


def test_colours_hold_train_ids_and_a_palette(open_test: OpenSplit, tmp_path: Path) -> None:
    split, out = open_test(), tmp_path / "results"
    write_predictions(varied_network(19), split, out, SPACE, CPU, colours=True)
    names = {path.name for path in (out / "colours").iterdir()}
    assert names == {f"colours_{key}.png" for key in KEYS}
    ids = pixels_of(out / f"{KEYS[0]}.png", "L")
    train_ids = pixels_of(out / "colours" / f"colours_{KEYS[0]}.png", "P")
    np.testing.assert_array_equal(SPACE.table("cityscapes")[ids], train_ids)
    with Image.open(out / "colours" / f"colours_{KEYS[0]}.png") as picture:
        rgb = np.array(picture.convert("RGB"))
    np.testing.assert_array_equal(rgb, SPACE.colour_table()[train_ids])


def test_cityscapes_scripts_pairs_them(
    open_test: OpenSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, out = open_test(), tmp_path / "results"
    write_predictions(varied_network(19), split, out, SPACE, CPU, colours=True)
    monkeypatch.setattr(official.args, "predictionPath", str(out))
    monkeypatch.setattr(official.args, "predictionWalk", None)
    for key in KEYS:
        truth = f"somewhere/gtFine/test/{key.split('_')[0]}/{key}_gtFine_labelIds.png"
        assert official.getPrediction(official.args, truth) == str(out / f"{key}.png")


def test_a_size_can_be_asked_for(open_test: OpenSplit, tmp_path: Path) -> None:
    split = open_test(encoding="exact", packed_hw=(12, 20))
    write_predictions(varied_network(19), split, tmp_path / "out", SPACE, CPU, size_hw=(30, 50))
    assert pixels_of(tmp_path / "out" / f"{KEYS[2]}.png", "L").shape == (30, 50)


def test_an_unknown_size_must_be_asked_for(open_test: OpenSplit, tmp_path: Path) -> None:
    split = open_test(encoding="exact", packed_hw=(12, 20))
    with pytest.raises(
        JobError, match=r"size_hw: .* packed at \[12, 20\]\. Fix: give the originals' size"
    ):
        write_predictions(varied_network(19), split, tmp_path / "out", SPACE, CPU)
    assert not (tmp_path / "out").exists()


def test_a_class_is_written_as_its_first_id() -> None:
    values: list[dict[str, Any]] = [
        {"name": "ground", "colour": [1, 2, 3], "ids": {"cityscapes": [8, 7], "gta5": [1]}},
        {"name": "sky", "colour": [4, 5, 6], "ids": {"cityscapes": [23]}},
    ]
    space = LabelSpace.model_validate_json(str(values).replace("'", '"'))
    assert ids_of_classes(space, "cityscapes").tolist() == [8, 23]
    with pytest.raises(
        JobError,
        match=r"classes: .*dataset 'gta5' for every class, got none for .sky.. Fix: name citysc",
    ):
        ids_of_classes(space, "gta5")


@pytest.mark.parametrize("name", ["cityscapes19", "cityscapes16"])
def test_ids_map_back_onto_the_classes(name: str) -> None:
    space = LABEL_SPACES[name]
    ids = ids_of_classes(space, "cityscapes")
    assert space.table("cityscapes")[ids].tolist() == list(range(space.num_classes))


def test_a_dataset_without_ids_is_refused(open_test: OpenSplit, tmp_path: Path) -> None:
    split = open_test(name="dashcam")
    with pytest.raises(JobError, match="classes: expected an id of dataset 'dashcam'"):
        write_predictions(varied_network(19), split, tmp_path / "out", SPACE, CPU)


def test_a_folder_that_cannot_be_made_is_named(open_test: OpenSplit, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    split = open_test()
    with pytest.raises(
        JobError, match=r"file/out: expected a folder for predictions, got: Not a directory"
    ):
        write_predictions(varied_network(19), split, tmp_path / "file" / "out", SPACE, CPU)
