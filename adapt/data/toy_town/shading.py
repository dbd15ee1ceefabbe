"""Colours for what the raster saw: a town, its buffers and a look -> the picture before the lens.

Every pattern (windows, markings, mortar, leaves) is a function of the place on the surface in
metres, so that both looks paint the same street, each in its own manner.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapt.data.toy_town.camera import Look
from adapt.data.toy_town.objects import (
    BARK,
    FACADE,
    FOLIAGE,
    GLASS,
    METAL,
    PAINT,
    ROOF,
    Caster,
    Town,
)
from adapt.data.toy_town.raster import ROAD, SIDEWALK, SKY, VERGE, Buffers, Face, Floats, on_wheel

Indices = NDArray[np.intp]
Distances = NDArray[np.floating[Any]]
NOISE_SIZE = 256


def shadows(casters: list[Caster], look: Look) -> list[Face]:
    """Where the sun of a look puts things' shadows: faces that lie on the plain."""
    x, y, z = look.to_sun.tolist()
    faces = []
    for thing in casters:
        reach = thing.height / max(y, 0.25)
        if thing.slim:
            spike = (-2 * x * reach, 0.0, -2 * z * reach)
            faces.append(Face((thing.x, 0, thing.z), (2 * thing.half_x, 0, 0), spike, SKY))
            continue
        corner = (thing.x - thing.half_x - x * reach, 0, thing.z - thing.half_z - z * reach)
        width, depth = (2 * thing.half_x, 0, 0), (0, 0, 2 * thing.half_z)
        faces.append(Face(corner, width, depth, SKY, thing.shape))
    return faces


@lru_cache(maxsize=1)
def _noise() -> tuple[Floats, Floats]:
    """Two tiling fields of unit spread: white with a little bloom, and cloudy."""
    rng = np.random.default_rng(20)
    waves = np.fft.fftfreq(NOISE_SIZE) * NOISE_SIZE
    radius = np.hypot(waves[:, None], waves[None, :])
    spectrum = np.fft.fft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE)))
    textures = []
    for weights in (np.exp(-((radius / 90) ** 2)), 1 / (1 + (radius / 5) ** 2)):
        weights[0, 0] = 0
        values = np.fft.ifft2(spectrum * weights).real
        textures.append((values / values.std()).clip(-2.5, 2.5).astype(np.float32))
    return textures[0], textures[1]


def _sample(texture: Floats, across: Distances, up: Distances, per_m: float) -> Floats:
    columns = (across * np.float32(per_m)).astype(np.int32) & (NOISE_SIZE - 1)
    rows = (up * np.float32(per_m)).astype(np.int32) & (NOISE_SIZE - 1)
    return texture.ravel()[rows * NOISE_SIZE + columns]


class _Canvas:
    """One picture's pixels as flat arrays while a look paints them."""

    def __init__(self, town: Town, buffers: Buffers, look: Look) -> None:
        self.town, self.look = town, look
        self.shape = buffers.surfaces.shape
        self.surfaces = buffers.surfaces.ravel()
        self.inverse = buffers.inverse_depths.ravel()
        self.u, self.v = buffers.across.ravel(), buffers.up.ravel()
        self.lit, self.rise = buffers.lit.ravel(), buffers.rise.ravel()
        materials = np.array([surface.material for surface in town.surfaces])
        self.materials = materials[self.surfaces]
        self.sizes = np.array([surface.size_m for surface in town.surfaces], np.float32)
        self.patterns = np.array([surface.pattern for surface in town.surfaces], np.float32)
        self.colours = np.take(_surface_colours(town, look), self.surfaces, axis=0)
        self.gain = np.ones(len(self.surfaces), np.float32)
        self.light = _surface_light(town, look)

    def pixels(self, material: int) -> Indices:
        """Where a material is seen."""
        return np.flatnonzero(self.materials == material)

    def put(self, where: Indices, colour: ArrayLike) -> None:
        """Paints pixels in one colour, under the light of their surface."""
        light = np.take(self.light, self.surfaces[where], axis=0)
        self.colours[where] = np.asarray(colour, np.float32) * light


def shade(town: Town, buffers: Buffers, look: Look) -> Floats:
    """The picture before the lens: (H, W) buffers -> (H, W, 3) float32 in 0..255, not clipped."""
    canvas = _Canvas(town, buffers, look)
    _paint_ground(canvas)
    _paint_facades(canvas)
    _paint_plants(canvas)
    _paint_cars(canvas)
    _add_grain(canvas)
    canvas.colours *= canvas.gain[:, None]
    _add_haze(canvas)
    _paint_sky(canvas)
    return canvas.colours.reshape(*canvas.shape, 3)


def _surface_colours(town: Town, look: Look) -> Floats:
    palettes = {
        FACADE: look.facades,
        ROOF: look.roofs,
        FOLIAGE: look.foliage,
        BARK: look.bark,
        METAL: look.metal,
        PAINT: look.paints,
        GLASS: look.car_glass[None],
    }
    colours = np.zeros((len(town.surfaces), 3))
    colours[:4] = look.ground
    for number, surface in enumerate(town.surfaces[4:], start=4):
        palette = palettes[surface.material]
        row, shade_ = divmod(surface.tone * len(palette), 1)
        colours[number] = palette[int(row)] * (0.9 + 0.2 * shade_)
    return (colours * _surface_light(town, look)).astype(np.float32)


def _surface_light(town: Town, look: Look) -> Floats:
    normals = np.array([surface.normal for surface in town.surfaces])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    facing = np.maximum(normals @ (look.to_sun / np.linalg.norm(look.to_sun)), 0)[:, None]
    light = look.daylight + facing * look.sunlight
    return light.astype(np.float32)


def _paint_ground(canvas: _Canvas) -> None:
    town, look = canvas.town, canvas.look
    where = np.flatnonzero((canvas.surfaces != SKY) & (canvas.surfaces <= VERGE))
    x, z, kind = canvas.u[where], canvas.v[where], canvas.surfaces[where]
    lateral = x - town.bend * np.minimum(z, 130) ** 2
    away = np.abs(lateral)
    near = canvas.inverse[where] > 0.05
    curb = (kind == SIDEWALK) & (away < town.half_road + 0.2)
    canvas.gain[where[curb]] = 1.18
    joint = (kind == SIDEWALK) & near & ((x % 0.9 < 0.05) | (z % 0.9 < 0.07)) & ~curb
    canvas.gain[where[joint]] = 0.86
    canvas.put(where[(kind == ROAD) & _marked(town, lateral, z)], look.marking)
    shaded = _in_wall_shadow(town, lateral, z, look) | (canvas.lit[where] == 0)
    canvas.gain[where] *= 1 - look.shadow * shaded


def _marked(town: Town, lateral: Distances, z: Distances) -> NDArray[np.bool_]:
    away, (middle, half) = np.abs(lateral), town.side_street
    dashed = z % 7 < 3
    marked = (away < 0.09) & dashed
    if town.lanes == 4:
        marked = (np.abs(away - 0.12) < 0.06) | (
            (np.abs(away - town.half_road / 2) < 0.08) & dashed
        )
    marked |= np.abs(away - town.half_road + 0.3) < 0.06
    before = middle - half - z
    marked &= (np.abs(z - middle) > half + 0.4) & ~((before > 0) & (before < 6))
    if town.zebra:
        marked |= (before > 1.2) & (before < 4.2) & (lateral % 1.1 < 0.55)
        marked &= away < town.half_road
    return marked


def _in_wall_shadow(town: Town, lateral: Distances, z: Distances, look: Look) -> NDArray[np.bool_]:
    x, y, ahead = look.to_sun.tolist()
    side = int(x > 0)
    to_wall = town.facade(side) - lateral * (2 * side - 1)
    steepness = max(abs(x), 1e-3)
    row = (z + to_wall * ahead / steepness).astype(np.int32)
    heights = town.walls[side][row.clip(0, town.walls.shape[1] - 1)]
    return (to_wall > 0) & (to_wall < heights * steepness / max(y, 0.2))


def _paint_facades(canvas: _Canvas) -> None:
    look, where = canvas.look, canvas.pixels(FACADE)
    surfaces, u, v = canvas.surfaces[where], canvas.u[where], canvas.v[where]
    period, storey, share, shop = canvas.patterns[surfaces].T
    column, across = np.divmod(u, period)
    floor, up = np.divmod(v, storey)
    up, beside = up / storey, np.abs(across / period - 0.5)
    street_level = (floor == 0) & (shop > 0.45)
    half = np.where(street_level, 0.42, share / 2)
    window = (beside < half) & (up > np.where(street_level, 0.16, 0.3)) & (up < 0.8)
    window &= share > 0
    frame = ~window & (beside < half + 0.05) & (up > 0.24) & (up < 0.86) & (share > 0)
    canvas.gain[where[frame]] = 1.14
    trim = (v > canvas.sizes[surfaces, 1] - 0.35) | (v < 0.45)
    canvas.gain[where[trim]] = 0.8
    close = np.minimum(canvas.inverse[where] * 14, 1)
    mortar = (v % 0.3 < 0.09) | ((u + (v % 0.6 < 0.3) * 0.25) % 0.5 < 0.08)
    canvas.gain[where] *= 1 - look.brick * close * (mortar - 0.4)
    canvas.put(where[window], look.window)
    spark = np.sin(column * 12.99 + floor * 78.23 + shop * 37.7) * 0.25
    canvas.gain[where[window]] = (1 + spark + 0.25 * up)[window]


def _paint_plants(canvas: _Canvas) -> None:
    where = canvas.pixels(FOLIAGE)
    sizes = canvas.sizes[canvas.surfaces[where]]
    u, v = canvas.u[where], canvas.v[where]
    coarse = _sample(_noise()[1], u, v, 60.0)
    leaves = _sample(_noise()[0], u, v, 9.0) * np.minimum(canvas.inverse[where] * 14, 1)
    slope = 0.22 * (2 * u / sizes[:, 0] - 1) * np.sign(canvas.look.to_sun[0])
    contrast = 0.09 + canvas.look.fine_grain
    canvas.gain[where] = 0.78 + 0.34 * v / sizes[:, 1] + slope + 0.06 * coarse + contrast * leaves
    where = np.concatenate([canvas.pixels(METAL), canvas.pixels(BARK)])
    width = canvas.sizes[canvas.surfaces[where], 0]
    canvas.gain[where] = 1.15 - 0.4 * np.minimum(canvas.u[where] / width, 1)


def _paint_cars(canvas: _Canvas) -> None:
    where = canvas.pixels(PAINT)
    surfaces = canvas.surfaces[where]
    u, v = canvas.u[where] / canvas.sizes[surfaces, 0], canvas.v[where] / canvas.sizes[surfaces, 1]
    lamps, sides = canvas.patterns[surfaces, 0], canvas.patterns[surfaces, 1]
    canvas.gain[where] = np.where(canvas.patterns[surfaces].any(1), 0.82 + 0.26 * v, 1.0)
    canvas.put(where[(sides > 0) & on_wheel(u, v)], [26, 26, 28])
    at_corner = (np.abs(u - 0.5) > 0.3) & (np.abs(u - 0.5) < 0.46) & (v > 0.52) & (v < 0.82)
    canvas.put(where[(lamps > 0) & at_corner], [250, 246, 224])
    canvas.put(where[(lamps < 0) & at_corner], [196, 26, 22])
    plate = (lamps != 0) & (np.abs(u - 0.5) < 0.14) & (v > 0.34) & (v < 0.52)
    canvas.put(where[plate], [226, 224, 214])
    bumper = (lamps != 0) & (v < 0.2)
    canvas.put(where[bumper], [44, 44, 46])


def _add_grain(canvas: _Canvas) -> None:
    look, (white, cloudy) = canvas.look, _noise()
    close = np.minimum(canvas.inverse * 11, 1)
    fine = _sample(white, canvas.u, canvas.v, 11.0) * close
    coarse = _sample(cloudy, canvas.u, canvas.v, 16.0)
    calm = np.isin(canvas.materials, (PAINT, GLASS, METAL))
    grain = look.fine_grain * fine + look.coarse_grain * coarse
    canvas.gain *= 1 + grain * np.where(calm, np.float32(0.25), np.float32(1))


def _add_haze(canvas: _Canvas) -> None:
    density = np.float32(max(canvas.look.haze_per_m, 0.0))
    kept = np.exp(-density / np.maximum(canvas.inverse, np.float32(1e-3)))[:, None]
    canvas.colours *= kept
    canvas.colours += (1 - kept) * canvas.look.horizon


def _paint_sky(canvas: _Canvas) -> None:
    look, where = canvas.look, np.flatnonzero(canvas.surfaces == SKY)
    rise = np.maximum(canvas.rise[where], 0)
    columns = (where % canvas.shape[1]).astype(np.float32) / canvas.shape[1] - 0.5
    distance = 1 / (rise + 0.12)
    clouds = _sample(_noise()[1], columns * distance * 40 + 900, distance * 30, 1.0)
    share = look.cloudiness * (clouds * 0.6 + 0.2).clip(0, 1)
    height = np.minimum(rise * 2.2, 1)[:, None]
    sky = look.horizon + height * (look.zenith - look.horizon)
    canvas.colours[where] = sky + share[:, None] * (look.cloud - sky)
