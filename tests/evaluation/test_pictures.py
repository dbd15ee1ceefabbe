"""Pictures of an evaluation, against values worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES
from adapt.evaluation.evaluate import Picture
from adapt.evaluation.pictures import (
    TILE_WIDTH_PX,
    _lightness,
    colourise,
    comparison_panel,
    comparison_sheet,
    entropy_map,
    evaluation_sheet,
    heat,
    heat_table,
    panel_grid,
    prediction_grid,
    prediction_panel,
)

NAMES = ["road", "sky", "[car]"]
COLOURS = [(128, 64, 128), (70, 130, 180), (0, 0, 142)]


def test_colourise() -> None:
    pixels = colourise(np.array([[0, 1], [2, 255], [3, 0]], np.uint8), COLOURS)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [
        [[128, 64, 128], [70, 130, 180]],
        [[0, 0, 142], [0, 0, 0]],
        [[0, 0, 0], [128, 64, 128]],
    ]


def test_entropy_map_of_known_probabilities() -> None:
    probabilities = torch.tensor([[1 / 4, 1 / 2, 1.0], [1 / 4, 1 / 2, 0.0]])
    rest = torch.tensor([[1 / 4, 0.0, 0.0], [1 / 4, 0.0, 0.0]])
    logits = torch.cat([probabilities, rest]).clamp(min=1e-30).log()[:, None, :]
    # uniform over 4: 1; two halves: log 2 / log 4 = 1/2; certain: 0
    assert entropy_map(logits) == pytest.approx(np.array([[1.0, 0.5, 0.0]]), abs=1e-6)


def test_entropy_map_of_half_precision_and_of_large_logits() -> None:
    logits = np.array([[[2.0, 1e4]], [[0.0, -1e4]]], np.float16)
    share = 1 / (1 + math.exp(-2))
    expected = -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
    entropy = entropy_map(logits)
    assert entropy.dtype == np.float32
    assert entropy == pytest.approx(np.array([[expected, 0.0]]), abs=1e-6)


def test_heat_table_grows_evenly_in_lightness() -> None:
    assert _lightness(np.array([[0, 0, 0], [255, 255, 255]])) == pytest.approx([0, 100], abs=0.01)
    lightness = _lightness(heat_table().astype(float))
    assert (np.diff(lightness[::8]) > 0).all()
    even = np.linspace(lightness[0], lightness[-1], 256)
    assert np.abs(lightness - even).max() < 5


def test_heat_takes_the_ends_of_the_table() -> None:
    colours = heat(np.array([[0.0, 1.0, 0.5]]))
    assert colours[0].tolist() == [heat_table()[index].tolist() for index in (0, 255, 128)]


def some_picture(key: str = "town/0001") -> Picture:
    image = np.full((20, 40, 3), 200, np.uint8)
    truth = np.zeros((10, 20), np.uint8)
    truth[:, 10:] = 1
    predicted = np.full((10, 20), 2, np.uint8)
    logits = np.zeros((11, 10, 20), np.float32)
    return Picture(key, image, truth, predicted, logits)


def tile_centre(panel: Image.Image, index: int, share: float = 0.5) -> tuple[int, ...]:
    step = TILE_WIDTH_PX + 6
    pixel = panel.getpixel((6 + index * step + round(share * TILE_WIDTH_PX), 22 + 100))
    assert isinstance(pixel, tuple)
    return pixel


def test_prediction_panel_shows_each_tile_in_its_place() -> None:
    one = some_picture()
    panel = prediction_panel(
        one.image, one.truth, one.predicted, entropy_map(one.logits), COLOURS, NAMES
    )
    assert tile_centre(panel, 0) == (200, 200, 200)
    assert tile_centre(panel, 1, 0.25) == COLOURS[0]
    assert tile_centre(panel, 1, 0.75) == COLOURS[1]
    assert tile_centre(panel, 2) == COLOURS[2]
    assert tile_centre(panel, 3) == tuple(heat_table()[255])


def test_prediction_panel_without_truth_is_one_tile_narrower() -> None:
    one = some_picture()
    entropy = entropy_map(one.logits)
    panel = prediction_panel(one.image, None, one.predicted, entropy, COLOURS, NAMES)
    assert panel.width == 3 * (TILE_WIDTH_PX + 6) + 6
    assert tile_centre(panel, 1) == COLOURS[2]


def test_tiles_have_the_shape_of_the_prediction() -> None:
    one, square = some_picture(), np.zeros((20, 20, 3), np.uint8)
    shapes = [
        prediction_panel(image, None, one.predicted, np.zeros((10, 20)), COLOURS, ()).size
        for image in (one.image, square)
    ]
    assert shapes[0] == shapes[1]


def test_legend_shows_every_colour_and_breaks_into_lines() -> None:
    one = some_picture()
    few, many = (
        prediction_panel(
            one.image, None, one.predicted, np.zeros((10, 20)), colours[:count], names[:count]
        )
        for colours, names in [([(i, 255 - i, 7) for i in range(60)], ["a class"] * 60)]
        for count in (2, 60)
    )
    assert many.height > few.height
    seen = {colour for _, colour in many.getcolors(maxcolors=1 << 20) or []}
    assert {(i, 255 - i, 7) for i in range(60)} <= seen


def test_comparison_panel_has_a_tile_a_run() -> None:
    one = some_picture()
    runs = {"source only": one.predicted, "advent": one.truth}
    panel = comparison_panel(one.image, one.truth, runs, COLOURS, NAMES)
    assert panel.width == 4 * (TILE_WIDTH_PX + 6) + 6
    assert tile_centre(panel, 2) == COLOURS[2]
    assert tile_centre(panel, 3, 0.25) == COLOURS[0]


def test_prediction_grid_breaks_into_rows() -> None:
    runs = {name: np.full((10, 20, 3), 50 * index, np.uint8) for index, name in enumerate("abc")}
    grid = prediction_grid(runs, COLOURS, (), columns=2)
    assert grid.size == (2 * (TILE_WIDTH_PX + 6) + 6, 2 * (TILE_WIDTH_PX // 2 + 22 + 6))
    assert tile_centre(grid, 0) == (0, 0, 0) and tile_centre(grid, 1) == (50, 50, 50)
    assert tile_centre(grid.crop((0, grid.height // 2, *grid.size)), 0) == (100, 100, 100)
    assert prediction_grid(runs, COLOURS, NAMES, columns=2).height > grid.height


def test_panel_grid_stacks() -> None:
    grid = panel_grid([Image.new("RGB", (4, 2), "red"), Image.new("RGB", (6, 3), "blue")])
    assert grid.size == (6, 5)
    assert [grid.getpixel(place) for place in ((0, 1), (5, 1), (5, 2))] == [
        (255, 0, 0),
        (255, 255, 255),
        (0, 0, 255),
    ]


def test_sheets_have_one_row_a_picture() -> None:
    classes = LABEL_SPACES["camvid11"]
    pictures = [some_picture("a"), some_picture("a/very/long/key" * 9)]
    one, two = (evaluation_sheet(pictures[:count], classes).height for count in (1, 2))
    assert two - one == TILE_WIDTH_PX // 2 + 22 + 6
    sheet = comparison_sheet({"source only": pictures, "advent": pictures}, classes)
    assert sheet.size == (4 * (TILE_WIDTH_PX + 6) + 6, two)


def test_sheet_of_a_real_image(shared_dir: Path) -> None:
    classes = LABEL_SPACES["camvid11"]
    folder, name = shared_dir / "data" / "camvid", "0001TP_008550.png"
    with (
        Image.open(folder / "test" / name) as image,
        Image.open(folder / "testannot" / name) as raw,
    ):
        pixels, ids = np.array(image.convert("RGB")), np.array(raw)
    truth = classes.table("camvid")[ids]
    logits = np.stack([truth == index for index in range(classes.num_classes)]).astype(np.float32)
    sheet = evaluation_sheet([Picture(name, pixels, truth, truth, logits)], classes)
    shown = np.array(sheet.crop((412, 22, 812, 322)).resize((480, 360), Image.Resampling.NEAREST))
    assert (shown == colourise(truth, classes.colours)).all(axis=2).mean() > 0.95
