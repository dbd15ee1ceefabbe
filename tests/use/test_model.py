"""`LoadedModel.predict`: what it takes, what it refuses, and the arrays and pictures of results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.codecs import resize_image
from adapt.errors import DataError, JobError
from adapt.evaluation.inference import EnsembleMember, predict
from adapt.models.file_header import FileHeader
from adapt.use import model as module
from adapt.use.model import LoadedModel
from storage.stores import Stores
from tests.networks import varied_network

SPACE = LABEL_SPACES["cityscapes19"]
CPU = torch.device("cpu")
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.fixture
def model() -> LoadedModel:
    return of_size(None)


def of_size(size_hw: tuple[int, int] | None) -> LoadedModel:
    segmenter = varied_network(19)
    header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, size_hw)
    return LoadedModel(segmenter, header, Stores(), CPU)


@pytest.mark.parametrize("size_hw", [None, (16, 16), (20, 30)])
def test_pixels_are_those_of_evaluations(size_hw: tuple[int, int] | None) -> None:
    model = of_size(size_hw)
    result = model.predict(RGB)
    seen = RGB if size_hw is None else resize_image(RGB, size_hw)
    pixels = torch.from_numpy(seen).permute(2, 0, 1)
    logits = predict((EnsembleMember(model.segmenter),), pixels, (20, 30), CPU)
    assert np.array_equal(result.class_map, logits.argmax(0).numpy())
    assert np.array_equal(result.probabilities, logits.softmax(0).numpy())
    assert result.class_map.dtype == np.uint8 and result.class_map.shape == (20, 30)
    probabilities = result.probabilities.astype(float)
    entropy = -(probabilities * np.log(probabilities)).sum(0) / np.log(19)
    assert np.allclose(result.entropy, entropy, atol=1e-5)
    assert result.entropy.dtype == np.float32
    assert len(np.unique(result.class_map)) > 1, "a test of one class could not fail"


def test_forms_of_one_image_are_one(model: LoadedModel, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.rot90(RGB).copy()).save(tmp_path / "turned.png", exif=turned)
    alpha = np.dstack([RGB, np.full((20, 30), 7, np.uint8)])
    expected = model.predict(RGB).probabilities
    for image in (
        *(tmp_path / "a.png", str(tmp_path / "a.png"), f"file://{tmp_path}/a.png"),
        *(Image.fromarray(RGB), Image.open(tmp_path / "a.png"), Image.fromarray(alpha), alpha),
        *(tmp_path / "turned.png", Image.open(tmp_path / "turned.png")),
        RGB.astype(np.uint16) * 256 + 3,
    ):
        result = model.predict(image)
        assert np.array_equal(result.image, RGB), image
        assert np.array_equal(result.probabilities, expected), image
    assert model.predict(tmp_path / "a.png").name == str(tmp_path / "a.png")


def test_greys_of_all_depths_are_one(model: LoadedModel, tmp_path: Path) -> None:
    grey = RGB[..., 0]
    deep = grey.astype(np.uint16) * 256 + 9
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = np.dstack([grey] * 3)
    for image in (
        *(grey, grey[..., None], np.dstack([grey, grey]), deep, tmp_path / "deep.png"),
        *(Image.fromarray(grey), Image.fromarray(deep), Image.open(tmp_path / "deep.png")),
    ):
        assert np.array_equal(model.predict(image).image, expected), image
    assert np.array_equal(model.predict(grey > 99).image[..., 1], (grey > 99) * 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, r"image 0: expected an array of uint8, uint16 or bool, got float64"),
        (RGB.astype(np.int32), "got int32"),
        (RGB.transpose(2, 0, 1), r"got \[3, 20, 30\].*transpose\(1, 2, 0\)"),
        (RGB[None], r"got \[1, 20, 30, 3\].*give a list of images"),
        (np.zeros((0, 5, 3), np.uint8), r"got \[0, 5, 3\]"),
        (np.zeros((40000, 2), np.uint8), "got an image of 40000x2 pixels"),
        (RGB.astype(np.uint16), "nearly black in 8 bits"),
        (torch.zeros(3, 4, 4), r"got Tensor. Fix: call .permute\(1, 2, 0\)"),
        (b"\x89PNG", r"got bytes. Fix: open the file's bytes with Pillow"),
        (3, "expected a path, a URI, a NumPy array, a Pillow image or a list of them, got int"),
        (Image.fromarray(RGB[..., 0].astype(np.float32)), "no fixed range"),
        ("absent.png", "absent.png: expected an image, got no file"),
        (".", "expected an image, got a folder"),
        ("ftp://host/a.png", "ftp"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_in_words(image: Any, message: str, model: LoadedModel) -> None:
    with pytest.raises(Exception, match=message) as raised:
        model.predict(image)
    assert hasattr(raised.value, "fix"), "an error that the user can fix"


def test_a_bad_image_of_a_list_is_named(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"<html>")
    with pytest.raises(
        DataError, match=r"bad.png: corrupt image: a web page.* Fix: give a picture"
    ):
        model.predict([RGB, tmp_path / "bad.png"])
    with pytest.raises(JobError, match=r"image 1: .*got float64"):
        model.predict([RGB, RGB / 2])
    with pytest.raises(JobError, match="batch_size: expected a positive integer, got 0"):
        model.predict([RGB], batch_size=0)


def test_a_list_keeps_its_order_over_sizes(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one size share a pass, at most 16 are read ahead."""
    monkeypatch.setattr(module, "_AHEAD", 5)
    sizes = [(20, 30), (12, 8), (20, 30), (20, 30), (12, 8), (20, 30), (12, 8)]
    images = [RGB[:height, :width] + np.uint8(n) for n, (height, width) in enumerate(sizes)]
    batches: list[int] = []
    own = LoadedModel._logits

    def counted(self: LoadedModel, batch: Any) -> torch.Tensor:
        batches.append(len(batch))
        return own(self, batch)

    monkeypatch.setattr(LoadedModel, "_logits", counted)
    results = model.predict(images, batch_size=2)
    assert batches == [2, 2, 1, 1, 1]
    for image, result in zip(images, results, strict=True):
        alone = model.predict(image)
        assert np.array_equal(result.image, image)
        assert np.array_equal(result.class_map, alone.class_map)
        assert np.array_equal(result.probabilities, alone.probabilities)
    assert model.predict([]) == []


def test_a_long_set_is_read_as_it_is_used(model: LoadedModel) -> None:
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(1)
            yield RGB

    results = model.predict_each(endless())
    assert next(results).name == "image 0"
    assert len(taken) == 16


def test_pictures_and_ids(model: LoadedModel, tmp_path: Path) -> None:
    result = model.predict(RGB)
    for name in ("out.png", "out.jpg", "over.png", "map.png", "entropy.png"):
        picture = {"over.png": "overlay", "map.png": "class_map", "entropy.png": "entropy"}
        result.save(tmp_path / name, picture.get(name, "colours"))
    colours = np.array(SPACE.colours, np.uint8)[result.class_map]
    with Image.open(tmp_path / "out.png") as saved:
        assert np.array_equal(np.array(saved), result.class_map), "a palette of train ids"
        assert np.array_equal(np.array(saved.convert("RGB")), colours)
    assert np.array_equal(result.colours, colours)
    mixed = (RGB.astype(float) + colours) / 2
    over = np.array(Image.open(tmp_path / "over.png")).astype(float)
    assert np.abs(over - mixed).max() <= 0.5
    assert np.array_equal(result.overlay(0), RGB) and np.array_equal(result.overlay(1), colours)
    assert np.array_equal(np.array(Image.open(tmp_path / "map.png")), result.class_map)
    ids = np.array([entry.ids["cityscapes"][0] for entry in SPACE.root])
    assert np.array_equal(result.ids("cityscapes"), ids[result.class_map])
    assert Image.open(tmp_path / "out.jpg").mode == "RGB"
    for name, picture_name, message in (
        ("a.png", "colour", r"picture: expected a known name, got 'colour'; did you mean"),
        ("a.jpg", "class_map", r"for a class map, got .jpg"),
        ("a.xyz", "colours", "expected a file of pictures that can be written"),
        ("none/a.png", "colours", "expected a file of pictures that can be written"),
    ):
        with pytest.raises(JobError, match=message):
            result.save(tmp_path / name, picture_name)
    with pytest.raises(JobError, match="opacity: expected a share from 0 to 1, got 2"):
        result.overlay(2)


def test_half_precision_is_a_choice(model: LoadedModel) -> None:
    half = LoadedModel(
        model.segmenter,
        FileHeader(model.segmenter.config, 19, model.segmenter.pixels, SPACE),
        Stores(),
        precision="bf16",
        device="cpu",
    )
    probabilities = half.predict(RGB).probabilities
    assert probabilities.dtype == np.float32
    assert not np.array_equal(probabilities, model.predict(RGB).probabilities)


@pytest.mark.parametrize("keep", [True, False])
def test_prepared_images_are_predicted_together(
    keep: bool, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order; kept logits spare the second pass that probabilities take."""
    model.size_hw = (16, 16)
    images = [model.prepare(RGB[:height], f"{height} rows") for height in (20, 12, 20)]
    assert [image.input.shape for image in images] == [(16, 16, 3)] * 3
    passes: list[int] = []
    own = LoadedModel._logits

    def counted(self: LoadedModel, batch: Any) -> torch.Tensor:
        passes.append(len(batch))
        return own(self, batch)

    monkeypatch.setattr(LoadedModel, "_logits", counted)
    results = model.predict_prepared(images, batch_size=2, keep_logits=keep)
    assert passes == [1, 2]
    for image, result in zip(images, results, strict=True):
        alone = model.predict(image.pixels)
        assert np.array_equal(result.class_map, alone.class_map) and result.name == image.name
        before = len(passes)
        assert np.array_equal(result.probabilities, alone.probabilities)
        assert len(passes) - before == (not keep)
