"""A pinhole camera and a z-buffer: parallelograms in metres -> which surface each pixel sees, and
where on it.

World axes: x right, y up, z forward. Shading reads the buffers later (deferred), so that one
geometry serves every look. Faces may be cut to a shape (a tree's crown, a gable) by a mask over
their own two coordinates in 0..1.
"""

from collections.abc import Callable, Iterator, Sequence
from math import hypot
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]

SKY, ROAD, SIDEWALK, VERGE = range(4)
"""The surfaces every town has; faces number theirs from 4."""
NEAR_M = 0.3
EDGE_ON = 1e-6
FARTHEST = np.float32(1e-4)
HALF = np.float32(0.5)
_Window = tuple[slice, slice]


class Viewpoint(NamedTuple):
    """Where a camera stands and looks: metres, radians; the focal length in image widths."""

    x_m: float
    height_m: float
    pitch_rad: float
    yaw_rad: float
    roll_rad: float
    focal: float

    def rotation(self) -> NDArray[np.float64]:
        """The matrix camera axes -> world axes, (3, 3)."""
        (sin_p, sin_y, sin_r), (cos_p, cos_y, cos_r) = (
            f((self.pitch_rad, self.yaw_rad, self.roll_rad)) for f in (np.sin, np.cos)
        )
        yaw = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
        pitch = np.array([[1, 0, 0], [0, cos_p, sin_p], [0, -sin_p, cos_p]])
        roll = np.array([[cos_r, -sin_r, 0], [sin_r, cos_r, 0], [0, 0, 1]])
        return yaw @ pitch @ roll


class Face(NamedTuple):
    """The parallelogram origin + u * along + v * up, u and v in 0..1, cut to the mask named
    `shape`.
    """

    origin: Point
    along: Point
    up: Point
    surface: int
    shape: str = "full"
    phase: float = 0.0


class Buffers(NamedTuple):
    """Geometry behind each pixel, each (H, W): inverse depth in 1/m (0: sky), surface, place on it
    in metres.

    On the ground `across` and `up` are the world's x and z. `lit` is 1 in the sun and 0 in the
    shadow of things. `rise` is the slope of the pixel's ray, which colours the sky.
    """

    inverse_depths: Floats
    surfaces: NDArray[np.int16]
    across: Floats
    up: Floats
    lit: Floats
    rise: Floats


def _crown(u: Floats, v: Floats, phase: float) -> NDArray[np.bool_]:
    x, y = 2 * u - 1, 2 * v - 1
    angle = np.arctan2(y, x)
    ragged = 0.07 * np.sin(23 * u + 5 * phase) * np.sin(29 * v + 3 * phase)
    rim = 0.86 + 0.08 * np.sin(3 * angle + phase) + 0.05 * np.sin(7 * angle + 2 * phase)
    return x * x + y * y < (rim + ragged) ** 2


def _cone(u: Floats, v: Floats, phase: float) -> NDArray[np.bool_]:
    return np.abs(2 * u - 1) < (1.02 - v) * (0.85 + 0.15 * np.sin(26 * v + phase))


def _hedge(u: Floats, v: Floats, phase: float) -> NDArray[np.bool_]:
    return v < 0.93 + 0.07 * np.sin(31 * u + phase) * np.sin(17 * u)


def _treeline(u: Floats, v: Floats, phase: float) -> NDArray[np.bool_]:
    waves = np.sin(37 * u + phase) + np.sin(91 * u + 2 * phase) + 0.6 * np.sin(233 * u)
    return v < 0.72 + 0.1 * waves


def on_wheel(u: Floats, v: Floats) -> NDArray[np.bool_]:
    """The two wheels on the side of a car."""
    nearest = np.minimum(np.abs(u - 0.19), np.abs(u - 0.81)) / 0.08
    return nearest**2 + ((v - 0.36) / 0.37) ** 2 < 1


SHAPES: dict[str, Callable[[Floats, Floats, float], NDArray[np.bool_]]] = {
    "crown": _crown,
    "cone": _cone,
    "hedge": _hedge,
    "treeline": _treeline,
    "gable": lambda u, v, _phase: np.abs(2 * u - 1) < 1 - v,
    "car_side": lambda u, v, _phase: (v > 0.28) | on_wheel(u, v),
    "cabin_side": lambda u, v, _phase: (u > 0.26 * v) & (u < 1 - 0.2 * v),
    "disc": lambda u, v, _phase: (2 * u - 1) ** 2 + (2 * v - 1) ** 2 < 1,
}


class Raster:
    """The buffers of one picture while it is drawn."""

    def __init__(
        self,
        view: Viewpoint,
        size_hw: tuple[int, int],
        ground: Callable[[Floats, Floats], NDArray[np.int16]],
    ) -> None:
        """The empty plain: `ground(x, z)` names its surface at points in metres."""
        height, width = size_hw
        self._focal = view.focal * width
        self._size_hw = size_hw
        self._rotation = view.rotation()
        self._eye = np.array([view.x_m, view.height_m, 0.0])
        lens = [[1, 0, 0.5 - width / 2], [0, -1, height / 2 - 0.5], [0, 0, self._focal]]
        self._rays = self._rotation @ (np.array(lens) / self._focal)
        self._columns = np.arange(width, dtype=np.float32)[None, :]
        self._rows = np.arange(height, dtype=np.float32)[:, None]
        self.buffers = self._plain(ground)

    def _plain(self, ground: Callable[[Floats, Floats], NDArray[np.int16]]) -> Buffers:
        x, y, z = (
            self._affine(row, slice(None), slice(None)) for row in self._rays.astype(np.float32)
        )
        inverse = np.maximum(y * np.float32(-1 / self._eye[1]), FARTHEST)
        depths = 1 / inverse
        across, up = x * depths + np.float32(self._eye[0]), z * depths
        surfaces = ground(across, up)
        sky = inverse <= FARTHEST
        inverse[sky], surfaces[sky] = 0, SKY
        return Buffers(inverse, surfaces, across, up, np.ones_like(y), y)

    def _affine(self, row: Floats, rows: slice, columns: slice) -> Floats:
        by_column, by_row, constant = row
        return by_column * self._columns[:, columns] + (by_row * self._rows[rows] + constant)

    def _aim(self, faces: Sequence[Face]) -> Iterator[tuple[Face, _Window, NDArray[np.float64]]]:
        """The faces that can be seen: each with its window and the matrix pixel -> (u, v, 1) /
        depth.
        """
        origins, alongs, ups = (
            np.array([face[part] for face in faces], float).reshape(-1, 3) for part in range(3)
        )
        edges = np.stack([alongs, ups, origins - self._eye], axis=2)
        flat = np.abs(np.linalg.det(edges)) < EDGE_ON
        edges[flat] = np.eye(3)
        to_faces = np.linalg.inv(edges) @ self._rays
        far = origins + alongs
        corners = np.stack([origins, far, far + ups, origins + ups], axis=1) - self._eye
        windows = self._windows(corners @ self._rotation)
        for face, hidden, window, to_face in zip(faces, flat, windows, to_faces, strict=True):
            if not hidden and window is not None:
                yield face, window, to_face

    def _windows(self, corners: NDArray[np.float64]) -> list[_Window | None]:
        """The rows and columns that quadrilaterals (N, 4, 3), in camera axes, can cover; None: no
        pixel.
        """
        depths = corners[..., 2]
        behind, across = depths.max(1) < NEAR_M, depths.min(1) < NEAR_M
        points = corners[..., :2] / np.maximum(depths, NEAR_M)[..., None]
        lowest, highest = points.min(1), points.max(1)
        for number in np.flatnonzero(across & ~behind):
            kept = _clip_near(corners[number])
            shown = kept[:, :2] / kept[:, 2:]
            lowest[number], highest[number] = shown.min(0), shown.max(0)
        height, width = self._size_hw
        size = np.array([width, height])
        begin = np.stack([lowest[:, 0], -highest[:, 1]], 1) * self._focal + size / 2 - 1
        end = np.stack([highest[:, 0], -lowest[:, 1]], 1) * self._focal + size / 2 + 2
        begin, end = (np.clip(edge, 0, size).astype(int) for edge in (begin, end))
        seen = ~behind & (begin < end).all(1)
        return [
            (slice(top, bottom), slice(left, right)) if visible else None
            for (left, top), (right, bottom), visible in zip(
                begin.tolist(), end.tolist(), seen, strict=True
            )
        ]

    def _place(
        self, face: Face, window: _Window, to_face: NDArray[np.float64]
    ) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
        """u, v, inverse depth and the face's mask inside its window."""
        across, up, inverse = (self._affine(row, *window) for row in to_face.astype(np.float32))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            u, v = across / inverse, up / inverse
            inside = (np.abs(u - HALF) <= HALF) & (np.abs(v - HALF) <= HALF) & (inverse > 0)
            if face.shape != "full":
                inside &= SHAPES[face.shape](u, v, face.phase)
        return u, v, inverse, inside

    def draw(self, faces: Sequence[Face]) -> None:
        """Puts faces before what lies behind them; their order does not matter."""
        for face, window, to_face in self._aim(faces):
            u, v, inverse, inside = self._place(face, window, to_face)
            depths = self.buffers.inverse_depths[window]
            inside &= inverse > depths
            if not inside.any():
                continue
            np.copyto(depths, inverse, where=inside)
            np.copyto(self.buffers.across[window], u * _length(face.along), where=inside)
            np.copyto(self.buffers.up[window], v * _length(face.up), where=inside)
            np.copyto(self.buffers.surfaces[window], np.int16(face.surface), where=inside)

    def cast(self, shadows: Sequence[Face]) -> None:
        """Darkens the empty plain where faces that lie on it fall; to be called before `draw`."""
        for face, window, to_face in self._aim(shadows):
            inside = self._place(face, window, to_face)[3]
            np.copyto(self.buffers.lit[window], np.float32(0), where=inside)


def _length(edge: Point) -> np.float32:
    return np.float32(hypot(*edge))


def _clip_near(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of a polygon (N, 3), in camera axes, that lies before the camera."""
    kept = []
    for here, following in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if here[2] >= NEAR_M:
            kept.append(here)
        if (here[2] >= NEAR_M) != (following[2] >= NEAR_M):
            share = (NEAR_M - here[2]) / (following[2] - here[2])
            kept.append(here + share * (following - here))
    return np.array(kept)
