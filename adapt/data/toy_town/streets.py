"""The toy town's streets: a seed -> the plan of a street and where everything stands on it.

Both looks draw their streets from this one distribution; that is the premise of the papers that
adapt in output space.
"""

import numpy as np
from numpy.random import Generator

from adapt.data.toy_town.objects import (
    BUILDING,
    END_M,
    FACADE,
    FOLIAGE,
    METAL,
    POLE,
    VEGETATION,
    Caster,
    Surface,
    Town,
    add_car,
    add_hedge,
    add_house,
    add_tree,
)


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
        add_house(town, side, z, length, floors, rng)
        z += length + (rng.uniform(2, 12) if rng.random() < openness else 0.0)


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
            add_tree(town, x, z, conical, rng)
        z += spacing * rng.uniform(0.7, 1.4)
    if green and rng.random() < 0.7:
        _plant_hedge(town, side, rng)


def _plant_hedge(town: Town, side: int, rng: Generator) -> None:
    height, tone = rng.uniform(0.6, 1.7), rng.random()
    z = rng.uniform(2, 8)
    while z < 70:
        length = rng.uniform(4, 9)
        if abs(z + length / 2 - town.side_street[0]) > town.side_street[1] + 2 + length / 2:
            add_hedge(town, side, z, (length, height), tone, rng.uniform(0, 6))
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
        post = Surface(POLE, METAL, rng.random(), (0.0, 0.0, -1.0), (2 * radius, tall))
        town.add(post, ((x - radius, 0, z), (2 * radius, 0, 0), (0, tall, 0)))
        if lamp:
            arm = -outward * rng.uniform(1.0, 1.9)
            town.add(
                post,
                ((x, tall - 0.2, z), (arm, 0.15, 0), (0, 0.16, 0)),
                ((x + arm, tall - 0.12, z), (arm * 0.4, 0, 0), (0, 0.26, 0)),
            )
        town.casters.append(Caster(x, z, 0.12, 0.12, tall / 2, slim=True))
        z += spacing * rng.uniform(0.4, 1.1)


def _close_street(town: Town, rng: Generator) -> None:
    """The end of the street: a tree line, and houses before some of it."""
    middle = town.centre(END_M)
    town.add(
        Surface(VEGETATION, FOLIAGE, rng.random(), (0.0, 0.3, -1.0), (300.0, 7.0)),
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
                Surface(BUILDING, FACADE, rng.random(), (0.0, 0.0, -1.0), (width, height), pattern),
                ((x, 0, END_M), (width, 0, 0), (0, height, 0)),
            )
        x += width


def _park_and_drive(town: Town, rng: Generator) -> None:
    for side in (0, 1):
        occupancy, z = rng.choice([0.0, 0.25, 0.6]), rng.uniform(5, 10)
        while z < 75:
            if rng.random() < occupancy and abs(z + 2 - town.side_street[0]) > 8:
                lateral = (2.0 * side - 1) * (town.half_road - 1.05)
                add_car(town, lateral, z, oncoming=side == 0, rng=rng)
            z += rng.uniform(5.2, 7.0)
    inner = town.half_road - 3.05 if town.lanes == 2 else town.half_road / 4
    for direction, nearest in ((1, 11.0), (-1, 8.0)):
        z = nearest + rng.exponential(14)
        while z < 95:
            add_car(town, direction * inner, z, oncoming=direction < 0, rng=rng)
            z += 8 + rng.exponential(22)
