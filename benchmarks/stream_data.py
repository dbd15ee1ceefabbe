"""Street-like pictures with the entropy of real ones, and the packed data that benchmarks/stream.py
reads.

Pixels matter here only as bytes: what QOI and JPEG make of them has to be what they make of real
street scenes (QOI 1.46 to 1.62 bytes a pixel at 1280x720, JPEG 95 0.3 to 0.5, PNG about 1.1 at the
owners' sizes). Every picture is a pure function of its seed. Labels carry Cityscapes' own ids, so
that readers have the mapping to train ids to do that real data sets ask for.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.encodings import EncodingName
from adapt.data.packed.manifest import Manifest
from adapt.data.writing.pack import pack
from storage.stores import open_store

Pixels = npt.NDArray[np.uint8]
Points = list[tuple[float, float]]

ROAD, SIDEWALK, BUILDING, POLE, VEGETATION, SKY, CAR = 7, 8, 11, 17, 21, 23, 26
ROUGHNESS = {ROAD: 6, SIDEWALK: 7, BUILDING: 7, POLE: 6, VEGETATION: 22, SKY: 1.5, CAR: 7}
"""Grey levels of texture by what a pixel shows."""
PACKED_NOISE, OWNERS_NOISE = (1.75, 0.6), (1.14, 0.39)
"""Deviation common to the three channels and of each alone: with the first, pictures of the packed
size take as much as real ones, with the second those of the owners' sizes do as PNG."""
PACKED_HW = (720, 1280)
MEASURED: tuple[EncodingName, ...] = ("exact", "small")
WARM_UP_SAMPLES = 4


class Scene(NamedTuple):
    """(H, W, 3) uint8 RGB and (H, W) uint8 ids."""

    image: Pixels
    ids: Pixels


class _Canvas:
    """Draws a polygon into the picture and its id into the label."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        height_px, width_px = size_hw
        self.picture = Image.new("RGB", (width_px, height_px), (150, 175, 205))
        self.label = Image.new("L", (width_px, height_px), SKY)
        self.paint, self.mark = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.label)

    def polygon(self, points: Points, identity: int, colour: tuple[int, ...]) -> None:
        """The same shape in both."""
        self.paint.polygon(points, fill=colour)
        self.mark.polygon(points, fill=identity)

    def box(self, left: float, top: float, right: float, bottom: float, *rest: object) -> None:
        """An upright rectangle in both; `rest` is its id and its colour."""
        corners: Points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(corners, *rest)  # type: ignore[arg-type]


def scene(seed: int, size_hw: tuple[int, int], noise: tuple[float, float] = PACKED_NOISE) -> Scene:
    """A street of houses, trees, cars and poles with the texture and the noise of a camera."""
    rng = np.random.default_rng(seed)
    canvas, (height_px, width_px) = _Canvas(size_hw), size_hw
    horizon = int(height_px * rng.uniform(0.4, 0.5))
    _houses(canvas, horizon, rng)
    canvas.box(0, horizon, width_px, height_px, SIDEWALK, (125, 120, 118))
    near, far = (0.95, 0.05), (0.45, 0.55)
    road = [(far[0], horizon), (far[1], horizon), (near[0], height_px), (near[1], height_px)]
    canvas.polygon([(x * width_px, y) for x, y in road], ROAD, (88, 88, 92))
    _trees(canvas, horizon, rng)
    _cars_and_poles(canvas, horizon, rng)
    ids = np.array(canvas.label)
    return Scene(_textured(np.array(canvas.picture, np.float32), ids, noise, rng), ids)


def _houses(canvas: _Canvas, horizon: int, rng: Generator) -> None:
    width_px, height_px = canvas.picture.size
    left = 0
    while left < width_px:
        width = int(width_px * rng.uniform(0.05, 0.2))
        top = int(horizon * rng.uniform(0.05, 0.7))
        wall = tuple(rng.integers(60, 180, 3).tolist())
        canvas.box(left, top, left + width, horizon + height_px / 20, BUILDING, wall)
        window = tuple(channel // 2 for channel in wall)
        for y in range(top + 10, horizon - 10, height_px // 22):
            for x in range(left + 8, left + width - 16, width_px // 60):
                canvas.box(x, y, x + width_px / 110, y + height_px / 40, BUILDING, window)
        left += width


def _trees(canvas: _Canvas, horizon: int, rng: Generator) -> None:
    width_px, height_px = canvas.picture.size
    for _ in range(rng.integers(6, 14)):
        radius = height_px * rng.uniform(0.05, 0.16)
        centre_x, centre_y = rng.uniform(0, width_px), horizon - radius * rng.uniform(0.2, 1)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
        radii = radius * rng.uniform(0.7, 1.2, 40)
        xs, ys = centre_x + radii * np.cos(angles), centre_y + radii * np.sin(angles)
        canvas.polygon(list(zip(xs, ys, strict=True)), VEGETATION, (60, 85, 50))


def _cars_and_poles(canvas: _Canvas, horizon: int, rng: Generator) -> None:
    width_px, height_px = canvas.picture.size
    for _ in range(rng.integers(3, 9)):
        size = rng.uniform(0.03, 0.12)
        x, y = rng.uniform(0.1, 0.9) * width_px, horizon + size * height_px
        half, up = size * width_px, 0.7 * size * height_px
        roof: Points = [(x - half, y), (x - 0.6 * half, y - up), (x + 0.6 * half, y - up)]
        body: Points = [(x + half, y), (x + half, y + up), (x - half, y + up)]
        canvas.polygon(roof + body, CAR, tuple(rng.integers(30, 220, 3).tolist()))
    for _ in range(rng.integers(3, 10)):
        x, thickness = rng.uniform(0, width_px), width_px * rng.uniform(0.002, 0.006)
        canvas.box(x, height_px * 0.1, x + thickness, horizon * 1.2, POLE, (110, 110, 112))


def _textured(
    picture: npt.NDArray[np.float32], ids: Pixels, noise: tuple[float, float], rng: Generator
) -> Pixels:
    """Texture as rough as each thing's, uneven light, noise of the sensor: float -> uint8."""
    rough = np.zeros(256, np.float32)
    rough[list(ROUGHNESS)] = list(ROUGHNESS.values())
    size_hw = ids.shape
    tint = np.array([1, 0.97, 0.9], np.float32)
    picture = picture + (_octaves(rng, size_hw, 7) * rough[ids])[..., None] * tint
    picture *= 1 + 0.08 * _octaves(rng, size_hw, 3, coarsest=2)[..., None]
    for deviation, channels in zip(noise, (1, 3), strict=True):
        picture += deviation * rng.standard_normal((*size_hw, channels), np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _octaves(
    rng: Generator, size_hw: tuple[int, ...], octaves: int, coarsest: int = 8
) -> npt.NDArray[np.float32]:
    """(H, W) smooth noise: grids of `coarsest`, twice, four times ... as many cells, enlarged."""
    height_px, width_px = size_hw
    total = np.zeros((height_px, width_px), np.float32)
    for octave in range(octaves):
        across = coarsest << octave
        cells = rng.standard_normal((max(2, across * height_px // width_px), across), np.float32)
        enlarged = Image.fromarray(cells).resize((width_px, height_px), Image.Resampling.BICUBIC)
        total += np.array(enlarged) / 2 ** (0.7 * octave)
    return total


def pictures(
    folder: Path | None,
    size_hw: tuple[int, int],
    first_seed: int,
    noise: tuple[float, float] = PACKED_NOISE,
) -> Iterator[Scene]:
    """Scenes without end: made up, or with the images of `folder` (enlarged, then mirrored in
    their second turn) in the place of the made-up ones."""
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg")) if folder else []
    if folder is not None and not found:
        raise SystemExit(f"--images: expected a folder with .png or .jpg files, got {folder}")
    seed = first_seed
    while True:
        made = scene(seed, size_hw, noise)
        if found:
            turn, number = divmod(seed - first_seed, len(found))
            image = _fitted(found[number], size_hw)
            made = Scene(image[:, ::-1] if turn % 2 else image, made.ids)
        yield made
        seed += 1


def _fitted(path: Path, size_hw: tuple[int, int]) -> Pixels:
    with Image.open(path) as image:
        resized = image.convert("RGB").resize(size_hw[::-1], Image.Resampling.LANCZOS)
    return np.array(resized)


def write_raw(
    raw: Path, scenes: Iterator[Scene], count: int, png_level: int = 1, workers: int = 2
) -> None:
    """`raw`/images/*.png and labels/*.png; what is there stays."""
    for name in ("images", "labels"):
        (raw / name).mkdir(parents=True, exist_ok=True)

    def save(numbered: tuple[int, Scene]) -> None:
        number, one = numbered
        image = Image.fromarray(one.image)
        image.save(raw / "images" / f"{number:05d}.png", compress_level=png_level)
        Image.fromarray(one.ids).save(raw / "labels" / f"{number:05d}.png")

    if len(list((raw / "labels").glob("*.png"))) != count:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(save, enumerate(islice(scenes, count))))


def packed(
    raw: Path,
    folder: Path,
    encoding: EncodingName,
    size_hw: tuple[int, int] = PACKED_HW,
    own_ids: bool = False,
) -> Manifest:
    """Pack a raw folder as a user would, with train ids unless `own_ids`; done already, nothing
    happens."""
    space = None if own_ids else LABEL_SPACES["cityscapes19"]
    store, name = open_store(str(folder)), "cityscapes"
    return pack(
        "folders",
        raw,
        store,
        "train",
        name=name,
        encoding=encoding,
        size_hw=size_hw,
        label_space=space,
    )
