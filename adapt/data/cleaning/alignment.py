"""The fit of a label on its image: edges of the image are sought at the borders of the label.

The mean gradient of the image on the label's borders is computed for all shifts together, by a
Fourier correlation, for the label as it is and mirrored. A label that fits has its peak at no
shift. What is compared are deviations from the mean over all shifts.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH_PX = 256
"""Images are compared at this width."""
MOST_SHIFT = 0.2
"""Of a side; larger shifts are chance."""


class Alignment(NamedTuple):
    """Deviations of the agreement at no shift, at the best shift, and mirrored; the shift down and
    right by which the label should move, in pixels of the full image."""

    here: float
    best: float
    mirrored: float
    shift_px: tuple[int, int]


def alignment(image: Image.Image, labels: npt.NDArray[np.uint8]) -> Alignment | None:
    """An image and its (H, W) labels -> how well they agree; None for a label of one class."""
    height_px = max(16, round(image.height * WIDTH_PX / image.width))
    size = (WIDTH_PX, height_px)
    edges = gradients(np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR)))
    small = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    border = borders(small)
    if not border.any() or not edges.any():
        return None
    as_is, mirrored = correlation(edges, border), correlation(edges, border[:, ::-1])
    near = within(as_is)
    row, column = np.unravel_index(int(np.where(near, as_is, -np.inf).argmax()), as_is.shape)
    factor = image.width / WIDTH_PX
    shift = (signed(int(row), height_px), signed(int(column), WIDTH_PX))
    return Alignment(
        here=float(as_is[0, 0]),
        best=float(as_is[row, column]),
        mirrored=float(mirrored[0, 0]),
        shift_px=(round(shift[0] * factor), round(shift[1] * factor)),
    )


def gradients(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(H, W) -> size of the gradient, its square root so that few strong edges do not decide."""
    down, right = np.gradient(grey.astype(np.float64))
    return np.asarray(np.sqrt(np.hypot(down, right)))


def borders(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(H, W) -> 1 where a pixel's class is not that of the pixel below or to the right."""
    found = np.zeros(labels.shape)
    found[:-1] += labels[:-1] != labels[1:]
    found[:, :-1] += labels[:, :-1] != labels[:, 1:]
    return np.minimum(found, 1)


def correlation(
    edges: npt.NDArray[np.float64], border: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Mean of the edges on the border for every shift, as deviations: (H, W), no shift at 0, 0."""
    product = np.fft.rfft2(edges - edges.mean()) * np.conj(np.fft.rfft2(border))
    found = np.fft.irfft2(product, s=edges.shape)
    deviation = found.std()
    return np.asarray((found - found.mean()) / deviation) if deviation > 0 else found * 0


def within(found: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Shifts of at most `MOST_SHIFT` of a side."""
    rows, columns = (np.abs(np.fft.fftfreq(side)) <= MOST_SHIFT for side in found.shape)
    return np.asarray(rows[:, None] & columns)


def signed(place: int, side: int) -> int:
    """A shift of more than half a side goes back."""
    return place - side if place > side // 2 else place
