"""Pictures of predictions, for people.

Pure functions. Pictures are drawn by Pillow alone, every tile at one width, so that rows align.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from math import log
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from adapt.data.label_maps import LabelSpace
from adapt.evaluation.evaluate import Picture

Pixels = NDArray[np.uint8]
Colours = Sequence[tuple[int, int, int]] | Pixels

TILE_WIDTH_PX = 400
_GAP_PX = 6
_TEXT_PX = 15
_CAPTION_PX = 22
_PAPER, _INK, _FRAME = (255, 255, 255), (25, 25, 25), (150, 150, 150)
_HEAT = ((0, 0, 4), (60, 15, 110), (150, 38, 125), (225, 80, 78), (250, 160, 60), (252, 253, 190))


def colourise(labels: Pixels, colours: Colours) -> Pixels:
    """Train ids in the classes' colours: (H, W), K colours -> (H, W, 3); any other id is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def overlay(image: Pixels, labels: Pixels, colours: Colours, opacity: float = 0.5) -> Pixels:
    """Classes' colours over an image: (H, W, 3), train ids (H, W) -> (H, W, 3); `opacity` in [0, 1]
    is the colours' share."""
    mixed = (1 - opacity) * image.astype(np.float32) + opacity * colourise(labels, colours)
    return mixed.round().astype(np.uint8)


def entropy_map(logits: Tensor | NDArray[np.floating]) -> NDArray[np.float32]:
    """Shannon entropy over the largest possible: (K, H, W) -> (H, W) in [0, 1]."""
    log_probabilities = torch.as_tensor(logits).float().log_softmax(dim=0)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=0)
    return (entropy / log(len(log_probabilities))).clamp(0, 1).cpu().numpy()


@cache
def heat_table() -> Pixels:
    """(256, 3) colours from black over purple and orange to pale yellow.

    Anchors stand at their own lightness, so equal steps of the value look equally large.
    """
    anchors = np.array(_HEAT, float)
    lightness = _lightness(anchors)
    positions = (lightness - lightness[0]) / (lightness[-1] - lightness[0])
    values = np.linspace(0, 1, 256)
    channels = [np.interp(values, positions, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _lightness(rgb: NDArray[np.floating]) -> NDArray[np.float64]:
    """CIE L* of sRGB colours: (N, 3) in 0..255 -> (N,) in 0..100."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def heat(shares: NDArray[np.floating]) -> Pixels:
    """Values in [0, 1] as colours of `heat_table`: (H, W) -> (H, W, 3)."""
    return heat_table()[(shares * 255).round().clip(0, 255).astype(np.uint8)]


class _Tile(NamedTuple):
    caption: str
    pixels: Pixels
    smooth: bool


def prediction_panel(
    image: Pixels,
    truth: Pixels | None,
    predicted: Pixels,
    entropy: NDArray[np.floating],
    colours: Colours,
    names: Sequence[str],
    caption: str = "image",
) -> Image.Image:
    """image | truth | prediction | entropy, with captions, and the classes underneath.

    image (H, W, 3) uint8; truth and predicted (h, w) train ids; entropy (h, w) in [0, 1]. Without
    truth its tile is left out. No `names`: no legend.
    """
    tiles = [_Tile(caption, image, smooth=True)]
    if truth is not None:
        tiles.append(_Tile("truth", colourise(truth, colours), smooth=False))
    tiles.append(_Tile("prediction", colourise(predicted, colours), smooth=False))
    tiles.append(_Tile("entropy (bright: unsure)", heat(entropy), smooth=False))
    return _with_legend(_row(tiles), colours, names)


def comparison_panel(
    image: Pixels,
    truth: Pixels | None,
    predictions: Mapping[str, Pixels],
    colours: Colours,
    names: Sequence[str],
    caption: str = "image",
) -> Image.Image:
    """image | truth | one prediction a run, by the run's name, and the classes underneath."""
    tiles = [_Tile(caption, image, smooth=True)]
    if truth is not None:
        tiles.append(_Tile("truth", colourise(truth, colours), smooth=False))
    for run, predicted in predictions.items():
        tiles.append(_Tile(run, colourise(predicted, colours), smooth=False))
    return _with_legend(_row(tiles), colours, names)


def prediction_grid(
    pictures: Mapping[str, Pixels], colours: Colours, names: Sequence[str], columns: int = 4
) -> Image.Image:
    """One image as several runs see it: RGB pictures (H, W, 3) by the run's name, `columns` a row,
    and the classes underneath.
    """
    tiles = [_Tile(run, pixels, smooth=False) for run, pixels in pictures.items()]
    rows = [_row(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return _with_legend(panel_grid(rows), colours, names)


def panel_grid(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels below one another, left-aligned. At least one."""
    assert panels, "nothing to show"
    height = sum(panel.height for panel in panels)
    grid = Image.new("RGB", (max(panel.width for panel in panels), height), _PAPER)
    top = 0
    for panel in panels:
        grid.paste(panel, (0, top))
        top += panel.height
    return grid


def evaluation_sheet(pictures: Sequence[Picture], classes: LabelSpace) -> Image.Image:
    """A prediction panel for each picture of an evaluation, one legend at the end."""
    rows = [
        prediction_panel(
            picture.image,
            picture.truth,
            picture.predicted,
            entropy_map(picture.logits),
            classes.colours,
            (),
            caption=picture.key,
        )
        for picture in pictures
    ]
    return _with_legend(panel_grid(rows), classes.colours, classes.names)


def comparison_sheet(runs: Mapping[str, Sequence[Picture]], classes: LabelSpace) -> Image.Image:
    """The same images as several runs see them, a row each; every run has the same pictures."""
    rows = []
    for views in zip(*runs.values(), strict=True):
        assert len({view.key for view in views}) == 1, "runs show different images"
        predictions = dict(zip(runs, (view.predicted for view in views), strict=True))
        one = views[0]
        rows.append(
            comparison_panel(one.image, one.truth, predictions, classes.colours, (), one.key)
        )
    return _with_legend(panel_grid(rows), classes.colours, classes.names)


def _row(tiles: Sequence[_Tile]) -> Image.Image:
    """Tiles side by side under their captions, all with the shape of the last one's pixels."""
    height, width = tiles[-1].pixels.shape[:2]
    size = (TILE_WIDTH_PX, max(1, round(TILE_WIDTH_PX * height / width)))
    step = TILE_WIDTH_PX + _GAP_PX
    row = Image.new("RGB", (step * len(tiles) + _GAP_PX, size[1] + _CAPTION_PX + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(row)
    for index, tile in enumerate(tiles):
        left = _GAP_PX + index * step
        draw.text((left, 2), _fitting(tile.caption, TILE_WIDTH_PX), fill=_INK, font=_font())
        how = Image.Resampling.LANCZOS if tile.smooth else Image.Resampling.NEAREST
        row.paste(Image.fromarray(tile.pixels).resize(size, how), (left, _CAPTION_PX))
    return row


def _with_legend(panel: Image.Image, colours: Colours, names: Sequence[str]) -> Image.Image:
    """The panel with a line, or several, of coloured squares and class names underneath."""
    if not names:
        return panel
    corners, height = _legend_corners(names, panel.width)
    legend = Image.new("RGB", (panel.width, height), _PAPER)
    draw = ImageDraw.Draw(legend)
    entries = [*zip(names, colours, corners[:-1], strict=True), ("ignored", (0, 0, 0), corners[-1])]
    for name, colour, (left, top) in entries:
        box = (left, top + 2, left + _TEXT_PX, top + 2 + _TEXT_PX)
        draw.rectangle(box, fill=tuple(int(part) for part in colour), outline=_FRAME)
        draw.text((left + _TEXT_PX + _GAP_PX, top), name, fill=_INK, font=_font())
    return panel_grid([panel, legend])


def _legend_corners(names: Sequence[str], width: int) -> tuple[list[tuple[int, int]], int]:
    """The corner (left, top) of each entry, broken into lines, and the height of all."""
    corners, left, top = [], _GAP_PX, _GAP_PX
    for name in (*names, "ignored"):
        needed = round(_font().getlength(name)) + _TEXT_PX + 4 * _GAP_PX
        if left + needed > width and left > _GAP_PX:
            left, top = _GAP_PX, top + _CAPTION_PX
        corners.append((left, top))
        left += needed
    return corners, top + _CAPTION_PX + _GAP_PX


def _fitting(text: str, width_px: int) -> str:
    """The text, or its end behind an ellipsis where it is too long."""
    short = text
    while _font().getlength(short) > width_px and len(short) > 4:
        short = "..." + short[4:]
    return short


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_TEXT_PX)
