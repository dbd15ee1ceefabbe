"""A small town of our own: perspective street scenes with exact labels, as a game draws them and
as a camera sees them.

The demo trains on the one and adapts to the other, with nothing to download. Labels are
Cityscapes' `labelIds`. `write_gta5` and `write_cityscapes` write the official layouts, so that
the toy passes through the real readers.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapt.data.toy_town.camera import GAME, camera_look, expose
from adapt.data.toy_town.objects import Town
from adapt.data.toy_town.raster import Raster, Viewpoint
from adapt.data.toy_town.shading import shade, shadows
from adapt.data.toy_town.streets import build_town

LookName = Literal["game", "camera"]
OnProgress = Callable[[int, int], None]
Pixels = NDArray[np.uint8]

TOY_CLASSES: dict[str, tuple[int, ...]] = {
    "road": (7,),
    "sidewalk": (8,),
    "building": (11,),
    "pole": (17,),
    "vegetation": (21, 22),
    "sky": (23,),
    "car": (26,),
}
"""The classes of the town and the Cityscapes label ids of each; no other id occurs."""

LABEL_COLOURS = {
    7: (128, 64, 128),
    8: (244, 35, 232),
    11: (70, 70, 70),
    17: (153, 153, 153),
    21: (107, 142, 35),
    22: (152, 251, 152),
    23: (70, 130, 180),
    26: (0, 0, 142),
}
SCENES_A_PART = 1_000_000
PARTS = ("gta5", "train", "val", "test")


def render_scene(
    seed: int,
    look: LookName,
    size_hw: tuple[int, int] = (128, 256),
    *,
    viewpoint: LookName | None = None,
    gap: float = 1.0,
) -> tuple[Pixels, Pixels]:
    """One street of the town -> image (H, W, 3) uint8 RGB and labels (H, W) uint8, Cityscapes
    label ids.

    A pure function of its arguments. The street depends on `seed` alone. `viewpoint` is whose
    eyes to look through (default: the look's own); with equal viewpoints both looks have equal
    labels. `gap` is how far the camera's look lies from the game's: 0 none, 1 the default, more
    is harder; it does not move the viewpoint.
    """
    assert seed >= 0 and look in ("game", "camera") and min(size_hw) > 0
    town = build_town(seed)
    view = _viewpoint(seed, viewpoint or look, town)
    painting = GAME if look == "game" else camera_look(seed, gap)
    height, width = size_hw
    raster = Raster(view, (2 * height, 2 * width), town.ground)
    raster.cast(shadows(town.casters, painting))
    raster.draw(town.faces)
    fine = shade(town, raster.buffers, painting).clip(0, 255)
    columns = fine[:, ::2] + fine[:, 1::2]
    picture = (columns[::2] + columns[1::2]) / 4
    label_ids = np.array([surface.label_id for surface in town.surfaces], np.uint8)
    labels = label_ids[raster.buffers.surfaces[::2, ::2]]
    return expose(picture, painting, seed), labels


def _viewpoint(seed: int, eyes: LookName, town: Town) -> Viewpoint:
    """A camera on the right lane: the game's low and wide, the photographer's higher, tilted and
    longer.
    """
    rng = np.random.default_rng([seed, 1])
    x_m = rng.uniform(0.2, max(0.6, town.half_road - 3.0))
    turn, tilt, roll, zoom, lift = rng.normal(0, 1, 5).clip(-2, 2)
    if eyes == "game":
        return Viewpoint(
            x_m, 1.45 + 0.08 * lift, -0.005 + 0.012 * tilt, 0.035 * turn, 0.0, 0.70 + 0.025 * zoom
        )
    return Viewpoint(
        x_m + 0.2 * tilt,
        1.75 + 0.12 * lift,
        0.015 + 0.02 * tilt,
        0.045 * turn,
        0.008 * roll,
        0.76 + 0.05 * zoom,
    )


class _Pair(NamedTuple):
    seed: int
    look: LookName
    image_path: Path
    labels_path: Path


def write_gta5(
    raw_dir: Path,
    num_images: int,
    seed: int,
    *,
    size_hw: tuple[int, int] = (128, 256),
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> None:
    """Writes game scenes as GTA5 is shipped: `images/00001.png`, `labels/00001.png` (palette;
    indices are ids).

    `on_progress(done, total)` is called after each pair. More than one worker starts that many
    processes afresh, so a script that calls this needs its `if __name__ == "__main__"`.
    """
    pairs = [
        _Pair(
            _scene_seed(seed, "gta5", number),
            "game",
            raw_dir / "images" / f"{number:05d}.png",
            raw_dir / "labels" / f"{number:05d}.png",
        )
        for number in range(1, num_images + 1)
    ]
    _write_pairs(pairs, size_hw, 1.0, workers, on_progress)


def write_cityscapes(
    raw_dir: Path,
    num_images: Mapping[str, int],
    seed: int,
    *,
    size_hw: tuple[int, int] = (128, 256),
    gap: float = 1.0,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> None:
    """Writes camera scenes as Cityscapes is shipped, `num_images[split]` of each split, city
    `toytown`.

    `leftImg8bit/SPLIT/toytown/toytown_000000_000019_leftImg8bit.png` and the `gtFine` beside it.
    No street occurs in two splits or in `write_gta5`'s images. `gap`, `workers` and `on_progress`
    as elsewhere in this file.
    """
    pairs = [
        _Pair(
            _scene_seed(seed, split, number), "camera", *_cityscapes_paths(raw_dir, split, number)
        )
        for split, count in num_images.items()
        for number in range(count)
    ]
    _write_pairs(pairs, size_hw, gap, workers, on_progress)


def _cityscapes_paths(raw_dir: Path, split: str, number: int) -> tuple[Path, Path]:
    stem = f"toytown_{number:06d}_000019"
    return (
        raw_dir / "leftImg8bit" / split / "toytown" / f"{stem}_leftImg8bit.png",
        raw_dir / "gtFine" / split / "toytown" / f"{stem}_gtFine_labelIds.png",
    )


def _scene_seed(seed: int, part: str, number: int) -> int:
    """A seed of its own for each scene of each part of each town."""
    assert seed >= 0 and part in PARTS and 0 <= number < SCENES_A_PART, (seed, part, number)
    return (seed * len(PARTS) + PARTS.index(part)) * SCENES_A_PART + number


def _write_pairs(
    pairs: list[_Pair],
    size_hw: tuple[int, int],
    gap: float,
    workers: int,
    on_progress: OnProgress | None,
) -> None:
    for folder in {path.parent for pair in pairs for path in (pair.image_path, pair.labels_path)}:
        folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write_pair, size_hw=size_hw, gap=gap)
    for done, _ in enumerate(_each(write, pairs, workers), start=1):
        if on_progress is not None:
            on_progress(done, len(pairs))


def _each(write: Callable[[_Pair], None], pairs: list[_Pair], workers: int) -> Iterator[None]:
    if workers <= 1:
        yield from map(write, pairs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, pairs, chunksize=8)


def _write_pair(pair: _Pair, size_hw: tuple[int, int], gap: float) -> None:
    image, labels = render_scene(pair.seed, pair.look, size_hw, gap=gap)
    Image.fromarray(image).save(pair.image_path, compress_level=1)
    picture = Image.fromarray(labels)
    if pair.look == "game":
        picture.putpalette(_palette())
    picture.save(pair.labels_path)


def _palette() -> list[int]:
    colours = np.zeros((256, 3), int)
    for label_id, colour in LABEL_COLOURS.items():
        colours[label_id] = colour
    return colours.ravel().tolist()
