"""The things in the toy town, in metres: houses, trees, hedges and cars as faces of surfaces.

Nothing here knows a colour: a surface carries a `tone` in 0..1, which each look turns into a
colour of its own.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adapt.data.toy_town.raster import ROAD, SIDEWALK, VERGE, Face, Floats, Point

END_M = 130.0
GROUND, FACADE, ROOF, FOLIAGE, BARK, METAL, PAINT, GLASS = range(8)
"""Materials: how a look shades a surface."""
BUILDING, POLE, VEGETATION, CAR = 11, 17, 21, 26
"""Cityscapes label ids; the ground's stand in `_ground_surfaces`."""


class Surface(NamedTuple):
    """A face: its tone, outward normal, size, and four numbers its pattern reads."""

    label_id: int
    material: int
    tone: float
    normal: Point
    size_m: tuple[float, float] = (1.0, 1.0)
    pattern: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Caster(NamedTuple):
    """Something that throws a shadow: its centre on the ground, half sizes and height (m)."""

    x: float
    z: float
    half_x: float
    half_z: float
    height: float
    shape: str = "full"
    slim: bool = False


def _ground_surfaces() -> list[Surface]:
    up = (0.0, 1.0, 0.0)
    sky_to_verge = (23, 7, 8, 22)
    return [Surface(label_id, GROUND, 0.5, up) for label_id in sky_to_verge]


@dataclass
class Town:
    """One street: its plan and what stands on it, side 0 left and 1 right, in metres.

    `bend` is half the curvature, `side_street` the middle and half width of a crossing street,
    `walls[side, metre]` the height of the houses there.
    """

    half_road: float
    sidewalk: float
    verge: tuple[float, float]
    bend: float
    lanes: int
    side_street: tuple[float, float]
    zebra: bool
    surfaces: list[Surface] = field(default_factory=_ground_surfaces)
    faces: list[Face] = field(default_factory=list)
    casters: list[Caster] = field(default_factory=list)
    walls: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((2, int(END_M) + 1), np.float32)
    )

    def centre(self, z: float) -> float:
        """Where the road's middle lies at a distance."""
        return self.bend * z * z

    def facade(self, side: int) -> float:
        """From the road's middle to the houses."""
        return self.half_road + self.sidewalk + self.verge[side]

    def ground(self, x: Floats, z: Floats) -> NDArray[np.int16]:
        """Road, sidewalk or verge at points, with the side street cut through."""
        lateral = x - self.bend * np.minimum(z, END_M) ** 2
        away = np.abs(lateral)
        middle, half = self.side_street
        along = np.abs(z - middle)
        walked = (away < self.half_road + self.sidewalk) | (along < half + self.sidewalk)
        driven = (away < self.half_road) | (along < half)
        surfaces = np.full(x.shape, VERGE, np.int16)
        surfaces[walked] = SIDEWALK
        surfaces[driven] = ROAD
        return surfaces

    def add(
        self,
        surface: Surface,
        *faces: tuple[Point, Point, Point],
        shape: str = "full",
        phase: float = 0.0,
    ) -> None:
        """Puts faces (origin, along, up) of one new surface into the town."""
        self.surfaces.append(surface)
        number = len(self.surfaces) - 1
        self.faces += [Face(*face, number, shape, phase) for face in faces]


def add_house(town: Town, side: int, z: float, length: float, floors: int, rng: Generator) -> None:
    """A house on a side of the street; low ones have at times a pitched roof."""
    outward = 2.0 * side - 1
    offset = outward * (town.facade(side) + rng.uniform(0, 0.9))
    storey = rng.uniform(2.8, 3.5)
    height, depth = floors * storey, rng.uniform(7, 11)
    near, far = town.centre(z) + offset, town.centre(z + length) + offset
    tone, period = rng.random(), rng.uniform(1.9, 3.4)
    pattern = (
        length / max(1, round(length / period)),
        storey,
        rng.uniform(0.4, 0.66),
        rng.random(),
    )
    front = (-outward, 0.0, (far - near) / length * outward)
    town.add(
        Surface(BUILDING, FACADE, tone, front, (length, height), pattern),
        ((near, 0, z), (far - near, 0, length), (0, height, 0)),
    )
    blind = (depth / max(1, round(depth / 4)), storey, 0.3, pattern[3])
    end = Surface(BUILDING, FACADE, tone, (0.0, 0.0, -1.0), (depth, height), blind)
    town.add(end, ((near, 0, z), (outward * depth, 0, 0), (0, height, 0)))
    if floors <= 3 and rng.random() < 0.6:
        rise = rng.uniform(1.8, 3.2)
        slope = (-outward * rise / depth, 0.8, 0.0)
        town.add(
            Surface(BUILDING, ROOF, rng.random(), slope, (length, depth)),
            ((near, height, z), (far - near, 0, length), (outward * depth / 2, rise, 0)),
        )
        town.add(
            end._replace(pattern=(99.0, 99.0, 0.0, 0.0)),
            ((near, height, z), (outward * depth, 0, 0), (0, rise, 0)),
            shape="gable",
        )
    town.walls[side, max(0, int(z)) : max(0, int(z + length))] = height


def add_tree(town: Town, x: float, z: float, conical: bool, rng: Generator) -> None:
    """A tree that always faces the viewer; it throws a round shadow."""
    radius, bole = rng.uniform(1.3, 2.5), rng.uniform(1.6, 2.6)
    height = radius * rng.uniform(1.9, 2.5) * (1.4 if conical else 1.0)
    facing, tone = (0.0, 0.35, -0.9), rng.random()
    town.add(
        Surface(VEGETATION, BARK, rng.random(), facing),
        ((x - 0.13, 0, z), (0.26, 0, 0), (0, bole + 0.6, 0)),
    )
    town.add(
        Surface(VEGETATION, FOLIAGE, tone, facing, (2 * radius, height)),
        ((x - radius, bole, z - 0.1), (2 * radius, 0, 0), (0, height, 0)),
        shape="cone" if conical else "crown",
        phase=rng.uniform(0, 6),
    )
    town.casters.append(Caster(x, z, radius, radius, bole + height / 2, "disc"))


def add_hedge(
    town: Town, side: int, z: float, size_m: tuple[float, float], tone: float, phase: float
) -> None:
    """A clipped hedge along the sidewalk of a side; `size_m` is its length and height."""
    (length, height), outward = size_m, 2.0 * side - 1
    edge = outward * (town.half_road + town.sidewalk + min(0.25, town.verge[side] / 3))
    depth = outward * 0.6
    near, far = town.centre(z) + edge, town.centre(z + length) + edge
    town.add(
        Surface(VEGETATION, FOLIAGE, tone, (-outward, 0.2, 0.0), size_m),
        ((near, 0, z), (far - near, 0, length), (0, height, 0)),
        shape="hedge",
        phase=phase,
    )
    town.add(
        Surface(VEGETATION, FOLIAGE, tone, (0.0, 0.2, -1.0), size_m),
        ((near, 0, z), (depth, 0, 0), (0, height, 0)),
    )
    town.add(
        Surface(VEGETATION, FOLIAGE, tone, (0.0, 1.0, 0.0), size_m),
        ((near, height * 0.9, z), (far - near, 0, length), (depth, 0, 0)),
    )


def add_car(town: Town, lateral: float, z: float, oncoming: bool, rng: Generator) -> None:
    """A car or, at times, a van, `lateral` metres right of the middle of the road."""
    length, width = rng.uniform(3.7, 4.6), rng.uniform(1.65, 1.85)
    waist, height, tone = rng.uniform(0.82, 0.95), rng.uniform(1.38, 1.6), rng.random()
    if rng.random() < 0.15:
        length, waist, height = 5.0, 1.1, 2.05
    lean = 2 * town.bend * z
    x = town.centre(z) + lateral - width / 2
    forward, across = (lean * length, 0.0, length), (width, 0.0, 0.0)
    lights = (1.0 if oncoming else -1.0, 0.0, 0.0, 0.0)
    side = Surface(CAR, PAINT, tone, (0.8, 0.3, -0.2), (length, waist), (0.0, 1.0, 0.0, 0.0))
    town.add(
        side,
        ((x, 0, z), forward, (0, waist, 0)),
        ((x + width, 0, z), forward, (0, waist, 0)),
        shape="car_side",
    )
    bottom = 0.24
    town.add(
        Surface(CAR, PAINT, tone, (0.0, 0.0, -1.0), (width, waist - bottom), lights),
        ((x, bottom, z), across, (0, waist - bottom, 0)),
    )
    roof = Surface(CAR, PAINT, tone, (0.0, 1.0, 0.0), (width, length))
    town.add(roof, ((x, waist, z), across, forward))
    begin, share = (0.24, 0.6) if oncoming else (0.1, 0.62)
    tumble = 0.12
    near = (x + lean * length * begin + tumble, waist, z + length * begin)
    cabin, narrow = (lean * length * share, 0.0, length * share), (width - 2 * tumble, 0.0, 0.0)
    rise = height - waist
    glass = Surface(
        CAR, GLASS, tone, (0.7, 0.4, -0.2), (length * share, rise), (1.0, 0.0, 0.0, 0.0)
    )
    right = (near[0] + width - 2 * tumble, *near[1:])
    town.add(glass, (near, cabin, (0, rise, 0)), (right, cabin, (0, rise, 0)), shape="cabin_side")
    slant = length * share * 0.26
    town.add(
        Surface(CAR, GLASS, tone, (0.0, 0.5, -0.8), (width, rise)), (near, narrow, (0, rise, slant))
    )
    top = (near[0], height, near[2] + slant)
    town.add(roof, (top, narrow, (cabin[0] * 0.54, 0, cabin[2] * 0.54)))
    town.casters.append(Caster(x + width / 2, z + length / 2, width * 0.6, length * 0.54, 0.2))
