"""The toy town's two looks: the game's paint and light, and the camera's, with what a lens and a
sensor add.

A look is numbers only, so the gap between the domains is one number: 0 is the game, 1 the camera,
and in between (or beyond) every number moves on a straight line. The camera's colours are chosen
to cross classes: its road is as bright as the game's sidewalk, its sidewalk as the game's road,
its sky as the game's walls, its trees as brown as walls. Colour and texture mislead a network
trained on the game; where things stand does not.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from adapt.data.toy_town.raster import Floats


@dataclass(frozen=True)
class Look:
    """Colours are RGB in 0..255 (3,), palettes (N, 3) with a row a variant, amplitudes shares of
    a colour.
    """

    ground: Floats
    marking: Floats
    facades: Floats
    roofs: Floats
    foliage: Floats
    bark: Floats
    metal: Floats
    paints: Floats
    window: Floats
    car_glass: Floats
    zenith: Floats
    horizon: Floats
    cloud: Floats
    to_sun: Floats
    sunlight: Floats
    daylight: Floats
    cast: Floats
    cloudiness: float
    shadow: float
    fine_grain: float
    coarse_grain: float
    brick: float
    haze_per_m: float
    exposure: float
    gamma: float
    blur: float
    vignette: float
    noise: float
    jpeg_quality: float


_GAME_NUMBERS: dict[str, ArrayLike] = {
    "ground": [[0, 0, 0], [98, 99, 108], [190, 182, 168], [112, 176, 66]],
    "marking": [245, 245, 240],
    "facades": [
        [226, 132, 88],
        [238, 208, 128],
        [128, 172, 214],
        [212, 98, 92],
        [240, 232, 214],
        [158, 200, 160],
    ],
    "roofs": [[196, 74, 52], [104, 108, 128], [168, 96, 60]],
    "foliage": [[62, 158, 44], [46, 134, 52], [98, 176, 48]],
    "bark": [[112, 76, 46]],
    "metal": [[60, 70, 66], [86, 96, 100]],
    "paints": [
        [226, 34, 34],
        [34, 70, 220],
        [250, 212, 40],
        [246, 246, 248],
        [38, 40, 48],
        [36, 178, 98],
    ],
    "window": [70, 104, 146],
    "car_glass": [48, 62, 80],
    "zenith": [58, 130, 236],
    "horizon": [168, 212, 252],
    "cloud": [255, 255, 255],
    "cloudiness": 0.35,
    "to_sun": [-0.55, 0.72, -0.42],
    "sunlight": [0.42, 0.40, 0.34],
    "daylight": [0.66, 0.68, 0.72],
    "shadow": 0.55,
    "fine_grain": 0.02,
    "coarse_grain": 0.03,
    "brick": 0.0,
    "haze_per_m": 0.0008,
    "exposure": 1.0,
    "gamma": 1.0,
    "cast": [1.0, 1.0, 1.0],
    "blur": 0.0,
    "vignette": 0.0,
    "noise": 0.0,
    "jpeg_quality": 100.0,
}

_WEATHERS: dict[str, dict[str, ArrayLike]] = {
    "overcast": {
        "zenith": [176, 180, 186],
        "horizon": [208, 208, 206],
        "cloud": [150, 152, 158],
        "sunlight": [0.10, 0.10, 0.10],
        "daylight": [0.84, 0.86, 0.88],
        "shadow": 0.16,
    },
    "low_sun": {
        "zenith": [150, 160, 182],
        "horizon": [246, 208, 164],
        "cloud": [250, 222, 196],
        "sunlight": [0.62, 0.46, 0.28],
        "daylight": [0.54, 0.54, 0.60],
        "shadow": 0.5,
    },
    "dusk": {
        "zenith": [118, 124, 146],
        "horizon": [212, 180, 158],
        "cloud": [156, 138, 142],
        "sunlight": [0.20, 0.15, 0.12],
        "daylight": [0.66, 0.66, 0.72],
        "shadow": 0.2,
    },
    "pale": {
        "zenith": [170, 190, 208],
        "horizon": [222, 224, 222],
        "cloud": [236, 236, 232],
        "sunlight": [0.40, 0.38, 0.34],
        "daylight": [0.60, 0.62, 0.66],
        "shadow": 0.45,
    },
}


def _look(photograph: dict[str, ArrayLike], gap: float) -> Look:
    """The game's numbers at 0, the photograph's at 1, a straight line through both elsewhere."""
    numbers: dict[str, Any] = {}
    for name, here in _GAME_NUMBERS.items():
        game, camera = (np.asarray(value, np.float64) for value in (here, photograph[name]))
        value = game + gap * (camera - game)
        numbers[name] = value.astype(np.float32) if value.ndim else float(value)
    return Look(**numbers)


GAME = _look(_GAME_NUMBERS, 0.0)
"""As a game draws it: saturated, even, sharp, the sun always in the same place."""


_CAMERA_NUMBERS: dict[str, ArrayLike] = {
    "marking": [206, 202, 190],
    "bark": [[66, 58, 52]],
    "metal": [[58, 58, 58], [120, 118, 114]],
    "car_glass": [46, 50, 52],
    "fine_grain": 0.12,
    "coarse_grain": 0.10,
    "brick": 0.2,
}
"""The numbers that all photographs share."""

_CAMERA_PALETTES: dict[str, tuple[float, list[list[int]]]] = {
    "ground": (0.10, [[0, 0, 0], [142, 138, 132], [112, 100, 94], [116, 110, 68]]),
    "facades": (
        0.12,
        [
            [128, 80, 64],
            [162, 150, 134],
            [108, 106, 108],
            [140, 112, 88],
            [178, 168, 150],
            [94, 78, 72],
        ],
    ),
    "roofs": (0.1, [[92, 72, 64], [78, 78, 82], [100, 84, 72]]),
    "foliage": (0.12, [[66, 72, 42], [98, 86, 48], [74, 80, 58]]),
    "paints": (
        0.1,
        [
            [150, 152, 156],
            [92, 94, 98],
            [44, 44, 48],
            [52, 64, 88],
            [196, 194, 190],
            [112, 44, 42],
        ],
    ),
}
"""Spread of each photograph's colours, and the colours."""

_AIR = {
    "cloudiness": (0.3, 1.0),
    "haze_per_m": (0.002, 0.009),
    "exposure": (0.85, 1.2),
    "gamma": (0.8, 1.15),
}
_LENS = {"blur": (0.3, 0.9), "vignette": (0.1, 0.4), "noise": (3, 8), "jpeg_quality": (38, 75)}
"""Least and greatest value, drawn evenly for each photograph."""


def camera_look(seed: int, gap: float = 1.0) -> Look:
    """The look of one photograph: weather, paint, lens and sensor drawn by `seed`, `gap` away
    from the game.
    """
    rng = np.random.default_rng([seed, 2])
    weather = _WEATHERS[list(_WEATHERS)[rng.integers(len(_WEATHERS))]]
    photograph: dict[str, ArrayLike] = {"to_sun": _to_sun(rng), **_CAMERA_NUMBERS}
    for name, (spread, colours) in _CAMERA_PALETTES.items():
        photograph[name] = _tinted(colours, spread, rng)
    photograph["window"] = rng.uniform(50, 120) * np.array([0.96, 1.0, 1.02])
    photograph |= {name: rng.uniform(*limits) for name, limits in _AIR.items()}
    photograph["cast"] = rng.normal(1.0, 0.05, 3) * [1.03, 1.0, 0.95]
    photograph |= {name: rng.uniform(*limits) for name, limits in _LENS.items()}
    return _look(photograph | weather, gap)


def _to_sun(rng: Generator) -> list[float]:
    """A direction above the horizon, (3,)."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.0)
    flat = np.cos(elevation)
    return [np.cos(azimuth) * flat, np.sin(elevation), np.sin(azimuth) * flat]


def _tinted(colours: ArrayLike, spread: float, rng: Generator) -> NDArray[np.float64]:
    rows = np.asarray(colours, float)
    return rows * (1 + rng.normal(0, spread, (len(rows), 1)) + rng.normal(0, 0.03, rows.shape))


def expose(picture: Floats, look: Look, seed: int) -> NDArray[np.uint8]:
    """Lens and sensor: (H, W, 3) float32 in 0..255 -> uint8. The game's look is only rounded."""
    height, width = picture.shape[:2]
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in (height, width))
    falloff = 1 - look.vignette / 2 * (rows[:, None] ** 2 + columns**2)
    exposed = (picture * falloff[..., None] * (look.cast * look.exposure)).clip(0, 255)
    if look.gamma != 1:
        exposed = 255 * (exposed / 255) ** max(look.gamma, 0.2)
    if look.noise > 0:
        rng = np.random.default_rng([seed, 3])
        exposed += rng.standard_normal(exposed.shape, np.float32) * look.noise
    image = Image.fromarray((exposed + 0.5).clip(0, 255).astype(np.uint8))
    if look.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(look.blur * width / 256))
    return np.asarray(_compressed(image, round(look.jpeg_quality)))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    if quality >= 100:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=max(quality, 10))
    return Image.open(file)
