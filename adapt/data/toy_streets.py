"""The toy town's streets: a seed -> a street in metres, with buildings, trees, hedges, cars and
lamps as faces.

Nothing here knows a colour: a surface carries a `tone` in 0..1, which each look turns into a
colour of its own. Both looks draw their streets from this one distribution; that is the premise
of the output-space papers.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adapt.data.toy_raster import ROAD, SIDEWALK, VERGE, Face, Floats, Point

END_M = 130.0
GROUND, FACADE, ROOF, FOLIAGE, BARK, METAL, PAINT, GLASS = range(8)
"""Materials: how a look shades a surface."""


class Surface(NamedTuple):
    """Label id, material, tone, outward normal, size in metres, and four numbers its material's
    pattern reads.
    """

    label_id: int
    material: int
    tone: float
    normal: Point
    size_m: tuple[float, float] = (1.0, 1.0)
    pattern: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Caster(NamedTuple):
    """Something that throws a shadow: its centre on the ground, half sizes and height, in metres."""

    x: float
    z: float
    half_x: float
    half_z: float
    height: float
    shape: str


def _ground_surfaces() -> list[Surface]:
    up = (0.0, 1.0, 0.0)
    return [Surface(label_id, GROUND, 0.5, up) for label_id in (23, 7, 8, 22)]


@dataclass
class Town:
    """One street: its plan, and what stands on it. `walls[side, metre]` is the height of the
    houses there.
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
        """The ground's surface at points: road, sidewalk or verge, with the side street cut
        through.
        """
        lateral = x - self.bend * np.minimum(z, END_M) ** 2
        away = np.abs(lateral)
        surfaces = np.where(away < self.half_road + self.sidewalk, SIDEWALK, VERGE)
        middle, half = self.side_street
        along = np.abs(z - middle)
        surfaces[along < half + self.sidewalk] = SIDEWALK
        surfaces[(away < self.half_road) | (along < half)] = ROAD
        return surfaces.astype(np.int16)

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


def build_town(seed: int) -> Town:
    """The street of a seed; a pure function."""
    rng = np.random.default_rng([seed, 0])
    lanes = int(rng.choice([2, 2, 4]))
    half_road = rng.uniform(4.2, 5.1) if lanes == 2 else rng.uniform(5.7, 6.7)
    green = rng.uniform(0, 4.5, 2) * (rng.random(2) < 0.6)
    side_street = (rng.uniform(16, 55), rng.uniform(3, 4.5)) if rng.random() < 0.5 else (-99.0, 0.0)
    town = Town(
        half_road=half_road,
        sidewalk=rng.uniform(2.6, 5.0),
        verge=(green[0], green[1]),
        bend=rng.normal(0, 0.0012),
        lanes=lanes,
        side_street=side_street,
        zebra=bool(rng.random() < 0.7),
    )
    for side in (0, 1):
        _build_row(town, side, rng)
        _plant_row(town, side, rng)
        _light_row(town, side, rng)
    _close_street(town, rng)
    _park_and_drive(town, rng)
    return town


def _build_row(town: Town, side: int, rng: Generator) -> None:
    openness = rng.uniform(0.1, 0.6)
    usual_floors = rng.uniform(1.4, 3.6)
    z = rng.uniform(-12, -4)
    while z < END_M - 20:
        length = rng.uniform(7, 17)
        middle, half = town.side_street
        if z + length > middle - half - 2 and z < middle + half + 2:
            z = middle + half + town.sidewalk
            length = rng.uniform(8, 15)
        floors = max(1, round(usual_floors + rng.normal(0, 0.9)))
        _build_house(town, side, z, length, floors, rng)
        z += length + (rng.uniform(2, 12) if rng.random() < openness else 0.0)


def _build_house(
    town: Town, side: int, z: float, length: float, floors: int, rng: Generator
) -> None:
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
        Surface(11, FACADE, tone, front, (length, height), pattern),
        ((near, 0, z), (far - near, 0, length), (0, height, 0)),
    )
    blind = (depth / max(1, round(depth / 4)), storey, 0.3, pattern[3])
    end = Surface(11, FACADE, tone, (0.0, 0.0, -1.0), (depth, height), blind)
    town.add(end, ((near, 0, z), (outward * depth, 0, 0), (0, height, 0)))
    if floors <= 3 and rng.random() < 0.6:
        rise = rng.uniform(1.8, 3.2)
        slope = (-outward * rise / depth, 0.8, 0.0)
        town.add(
            Surface(11, ROOF, rng.random(), slope, (length, depth)),
            ((near, height, z), (far - near, 0, length), (outward * depth / 2, rise, 0)),
        )
        town.add(
            end._replace(pattern=(99.0, 99.0, 0.0, 0.0)),
            ((near, height, z), (outward * depth, 0, 0), (0, rise, 0)),
            shape="gable",
        )
    town.walls[side, max(0, int(z)) : max(0, int(z + length))] = height


def _plant_row(town: Town, side: int, rng: Generator) -> None:
    outward = 2.0 * side - 1
    spacing = rng.choice([7.0, 10.0, 16.0, 40.0])
    green = town.verge[side] > 0.8
    beside = town.half_road + town.sidewalk + (min(town.verge[side], 2.0) / 2 if green else -0.5)
    conical = rng.random() < 0.25
    z = rng.uniform(5, 5 + spacing)
    while z < 95:
        if abs(z - town.side_street[0]) > town.side_street[1] + 2 and rng.random() < 0.85:
            x = town.centre(z) + outward * (beside + rng.normal(0, 0.15))
            _plant_tree(town, x, z, conical, rng)
        z += spacing * rng.uniform(0.7, 1.4)
    if green and rng.random() < 0.7:
        _plant_hedge(town, side, rng)


def _plant_tree(town: Town, x: float, z: float, conical: bool, rng: Generator) -> None:
    radius, bole = rng.uniform(1.3, 2.5), rng.uniform(1.6, 2.6)
    height = radius * rng.uniform(1.9, 2.5) * (1.4 if conical else 1.0)
    facing, tone = (0.0, 0.35, -0.9), rng.random()
    town.add(
        Surface(21, BARK, rng.random(), facing),
        ((x - 0.13, 0, z), (0.26, 0, 0), (0, bole + 0.6, 0)),
    )
    town.add(
        Surface(21, FOLIAGE, tone, facing, (2 * radius, height)),
        ((x - radius, bole, z - 0.1), (2 * radius, 0, 0), (0, height, 0)),
        shape="cone" if conical else "crown",
        phase=rng.uniform(0, 6),
    )
    town.casters.append(Caster(x, z, radius, radius, bole + height / 2, "disc"))


def _plant_hedge(town: Town, side: int, rng: Generator) -> None:
    outward = 2.0 * side - 1
    edge = outward * (town.half_road + town.sidewalk + min(0.25, town.verge[side] / 3))
    height, depth, tone = rng.uniform(0.6, 1.7), outward * 0.6, rng.random()
    z = rng.uniform(2, 8)
    while z < 70:
        length = rng.uniform(4, 9)
        near, far = town.centre(z) + edge, town.centre(z + length) + edge
        if abs(z + length / 2 - town.side_street[0]) > town.side_street[1] + 2 + length / 2:
            size, phase = (length, height), rng.uniform(0, 6)
            town.add(
                Surface(21, FOLIAGE, tone, (-outward, 0.2, 0.0), size),
                ((near, 0, z), (far - near, 0, length), (0, height, 0)),
                shape="hedge",
                phase=phase,
            )
            town.add(
                Surface(21, FOLIAGE, tone, (0.0, 0.2, -1.0), size),
                ((near, 0, z), (depth, 0, 0), (0, height, 0)),
            )
            town.add(
                Surface(21, FOLIAGE, tone, (0.0, 1.0, 0.0), size),
                ((near, height * 0.9, z), (far - near, 0, length), (depth, 0, 0)),
            )
        z += length + rng.uniform(0.0, 3.0)


def _light_row(town: Town, side: int, rng: Generator) -> None:
    outward = 2.0 * side - 1
    spacing, height = rng.uniform(16, 28), rng.uniform(5, 8)
    edge, radius = outward * (town.half_road + 0.4), rng.uniform(0.06, 0.1)
    z = rng.uniform(6, 6 + spacing / 2)
    while z < 90:
        lamp = rng.random() < 0.65
        tall = height if lamp else rng.uniform(1.0, 3.2)
        x = town.centre(z) + edge
        post = Surface(17, METAL, rng.random(), (0.0, 0.0, -1.0), (2 * radius, tall))
        town.add(post, ((x - radius, 0, z), (2 * radius, 0, 0), (0, tall, 0)))
        if lamp:
            arm = -outward * rng.uniform(1.0, 1.9)
            town.add(
                post,
                ((x, tall - 0.2, z), (arm, 0.15, 0), (0, 0.16, 0)),
                ((x + arm, tall - 0.12, z), (arm * 0.4, 0, 0), (0, 0.26, 0)),
            )
        town.casters.append(Caster(x, z, 0.12, 0.12, tall / 2, "full"))
        z += spacing * rng.uniform(0.4, 1.1)


def _close_street(town: Town, rng: Generator) -> None:
    """What stands across the far end: a tree line, and houses before some of it."""
    middle = town.centre(END_M)
    town.add(
        Surface(21, FOLIAGE, rng.random(), (0.0, 0.3, -1.0), (300.0, 7.0)),
        ((middle - 150, 0, END_M + 15), (300, 0, 0), (0, rng.uniform(4, 11), 0)),
        shape="treeline",
        phase=rng.uniform(0, 6),
    )
    x = middle - 60
    while x < middle + 60:
        width, storey = rng.uniform(10, 20), rng.uniform(2.9, 3.4)
        height = storey * int(rng.integers(2, 6))
        if rng.random() < 0.6:
            pattern = (2.6, storey, 0.5, rng.random())
            town.add(
                Surface(11, FACADE, rng.random(), (0.0, 0.0, -1.0), (width, height), pattern),
                ((x, 0, END_M), (width, 0, 0), (0, height, 0)),
            )
        x += width


def _park_and_drive(town: Town, rng: Generator) -> None:
    for side in (0, 1):
        occupancy, z = rng.choice([0.0, 0.25, 0.6]), rng.uniform(5, 10)
        while z < 75:
            if rng.random() < occupancy and abs(z + 2 - town.side_street[0]) > 8:
                lateral = (2.0 * side - 1) * (town.half_road - 1.05)
                _place_car(town, lateral, z, oncoming=side == 0, rng=rng)
            z += rng.uniform(5.2, 7.0)
    inner = town.half_road - 3.05 if town.lanes == 2 else town.half_road / 4
    for direction, nearest in ((1, 11.0), (-1, 8.0)):
        z = nearest + rng.exponential(14)
        while z < 95:
            _place_car(town, direction * inner, z, oncoming=direction < 0, rng=rng)
            z += 8 + rng.exponential(22)


def _place_car(town: Town, lateral: float, z: float, oncoming: bool, rng: Generator) -> None:
    length, width = rng.uniform(3.7, 4.6), rng.uniform(1.65, 1.85)
    waist, height, tone = rng.uniform(0.82, 0.95), rng.uniform(1.38, 1.6), rng.random()
    if rng.random() < 0.15:
        length, waist, height = 5.0, 1.1, 2.05
    lean = 2 * town.bend * z
    x = town.centre(z) + lateral - width / 2
    forward, across = (lean * length, 0.0, length), (width, 0.0, 0.0)
    lights = (1.0 if oncoming else -1.0, 0.0, 0.0, 0.0)
    side = Surface(26, PAINT, tone, (0.8, 0.3, -0.2), (length, waist), (0.0, 1.0, 0.0, 0.0))
    town.add(
        side,
        ((x, 0, z), forward, (0, waist, 0)),
        ((x + width, 0, z), forward, (0, waist, 0)),
        shape="car_side",
    )
    bottom = 0.24
    town.add(
        Surface(26, PAINT, tone, (0.0, 0.0, -1.0), (width, waist - bottom), lights),
        ((x, bottom, z), across, (0, waist - bottom, 0)),
    )
    roof = Surface(26, PAINT, tone, (0.0, 1.0, 0.0), (width, length))
    town.add(roof, ((x, waist, z), across, forward))
    begin, share = (0.24, 0.6) if oncoming else (0.1, 0.62)
    tumble = 0.12
    near = (x + lean * length * begin + tumble, waist, z + length * begin)
    cabin, narrow = (lean * length * share, 0.0, length * share), (width - 2 * tumble, 0.0, 0.0)
    rise = height - waist
    glass = Surface(26, GLASS, tone, (0.7, 0.4, -0.2), (length * share, rise), (1.0, 0.0, 0.0, 0.0))
    right = (near[0] + width - 2 * tumble, *near[1:])
    town.add(glass, (near, cabin, (0, rise, 0)), (right, cabin, (0, rise, 0)), shape="cabin_side")
    slant = length * share * 0.26
    town.add(
        Surface(26, GLASS, tone, (0.0, 0.5, -0.8), (width, rise)), (near, narrow, (0, rise, slant))
    )
    top = (near[0], height, near[2] + slant)
    town.add(roof, (top, narrow, (cabin[0] * 0.54, 0, cabin[2] * 0.54)))
    town.casters.append(
        Caster(x + width / 2, z + length / 2, width * 0.6, length * 0.54, 0.2, "full")
    )
