"""Proposes what to leave out of a raw split; deletes nothing.

Each check gives reasons by key. What is compared with the rest of the set uses its median and
median deviation, so that a dark or hazy set is not left out as a whole.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapt.data.cleaning.alignment import Alignment, alignment
from adapt.data.cleaning.perceptual_hash import near_duplicates, perceptual_hash
from adapt.data.datasets import RawSample
from adapt.data.raw_images import read_image
from adapt.errors import DataError

WIDTH_PX = 512
"""Width at which sharpness is measured."""
DEVIATION = 1.4826
"""Median deviation -> standard deviation of normal values."""
FEW = 8
"""Samples below which nothing is compared with the rest."""

ReadLabel = Callable[[Path], npt.NDArray[np.uint8]]


class Limits(NamedTuple):
    """When a sample is proposed. `dark` is the mean grey from 0 to 255; `blurred` and `classes`
    are deviations from the set's median; `bits` of 64 differ at most in near duplicates;
    `alignment` is by how many deviations another place fits better than the label's own."""

    bits: int = 4
    dark: float = 16.0
    blurred: float = 4.0
    classes: float = 6.0
    alignment: float = 1.5


class Measured(NamedTuple):
    """The measures of one sample; `fault` where it cannot be read, and nothing else then."""

    key: str
    fault: str = ""
    hash: int = 0
    brightness: float = 0.0
    sharpness: float = 0.0
    fit: Alignment | None = None
    shares: Mapping[int, float] | None = None


class Proposal(NamedTuple):
    """A sample to leave out: the check that proposes it, and why."""

    key: str
    check: str
    reason: str


def clean(
    samples: list[RawSample],
    read_label: ReadLabel,
    limits: Limits = Limits(),  # noqa: B008 (a tuple)
    workers: int = 4,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Proposal]:
    """Measure every sample and propose those to leave out, by check and key. A sample may be
    proposed by several checks."""
    measured = []
    with ThreadPoolExecutor(workers) as pool:
        for one in pool.map(lambda sample: measure(sample, read_label), samples):
            measured.append(one)
            on_progress(len(measured), len(samples))
    sound = [one for one in measured if not one.fault]
    found = [Proposal(one.key, "broken", one.fault) for one in measured if one.fault]
    for name, check in CHECKS.items():
        found += [Proposal(key, name, reason) for key, reason in check(sound, limits).items()]
    return found


def measure(sample: RawSample, read_label: ReadLabel) -> Measured:
    """Read one sample and measure it."""
    try:
        image = Image.fromarray(read_image(sample.image_path))
        labels = read_label(sample.label_path) if sample.label_path else None
    except DataError as error:
        return Measured(sample.key, fault=error.problem)
    if labels is not None and labels.shape != (image.height, image.width):
        height_px, width_px = labels.shape
        fault = f"the label is {height_px}x{width_px}, its image {image.height}x{image.width}"
        return Measured(sample.key, fault=fault)
    grey = image.convert("L")
    return Measured(
        sample.key,
        hash=perceptual_hash(grey),
        brightness=float(np.asarray(grey).mean()),
        sharpness=sharpness(grey),
        fit=None if labels is None else alignment(image, labels),
        shares=None if labels is None else shares_of(labels),
    )


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000), as a logarithm."""
    height_px = max(3, round(grey.height * WIDTH_PX / grey.width))
    pixels = np.asarray(grey.resize((WIDTH_PX, height_px), Image.Resampling.BILINEAR), np.float64)
    around = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    return float(np.log1p((around - 4 * pixels[1:-1, 1:-1]).var()))


def shares_of(labels: npt.NDArray[np.uint8]) -> dict[int, float]:
    """id -> share of the pixels."""
    counts = np.bincount(labels.ravel())
    return {int(one): float(counts[one] / labels.size) for one in np.flatnonzero(counts)}


def duplicated(measured: list[Measured], limits: Limits) -> dict[str, str]:
    """Images that look like one before them."""
    found = near_duplicates({one.key: one.hash for one in measured}, limits.bits)
    return {
        key: f"looks like {other} ({bits} of 64 bits differ)"
        for key, (other, bits) in found.items()
    }


def dark(measured: list[Measured], limits: Limits) -> dict[str, str]:
    """Images that are nearly black."""
    return {
        one.key: f"mean grey is {one.brightness:.1f} of 255"
        for one in measured
        if one.brightness < limits.dark
    }


def blurred(measured: list[Measured], limits: Limits) -> dict[str, str]:
    """Images with far less detail than the others."""
    values = np.array([one.sharpness for one in measured])
    return {
        one.key: f"sharpness is {-score:.1f} deviations below the median"
        for one, score in zip(measured, deviations(values), strict=True)
        if score < -limits.blurred
    }


def misplaced(measured: list[Measured], limits: Limits) -> dict[str, str]:
    """Labels that fit the image better elsewhere, or mirrored."""
    found = {}
    for one in measured:
        if one.fit is None:
            continue
        here, best, mirrored, (down, right) = one.fit
        if mirrored - here > limits.alignment and mirrored >= best:
            found[one.key] = "the label fits the image mirrored"
        elif best - here > limits.alignment and max(abs(down), abs(right)) > 1:
            found[one.key] = f"the label fits the image {down} pixels down, {right} right of here"
    return found


def unusual(measured: list[Measured], limits: Limits) -> dict[str, str]:
    """Labels whose classes are unlike the others': Hellinger distance to the mean shares."""
    labelled = [one for one in measured if one.shares]
    ids = sorted({identity for one in labelled for identity in one.shares or ()})
    rows = [[(one.shares or {}).get(identity, 0.0) for identity in ids] for one in labelled]
    if len(rows) < FEW:
        return {}
    roots = np.sqrt(np.array(rows))
    mean = np.sqrt(np.array(rows).mean(axis=0))
    distances = np.sqrt(((roots - mean) ** 2).sum(axis=1) / 2)
    return {
        one.key: f"class shares are {score:.1f} deviations from the others'"
        for one, score in zip(labelled, deviations(distances), strict=True)
        if score > limits.classes
    }


def deviations(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) -> deviations from the median; zeros for few values, and for equal ones."""
    if len(values) < FEW:
        return np.zeros(len(values))
    middle = np.median(values)
    spread = DEVIATION * np.median(np.abs(values - middle))
    return np.asarray((values - middle) / spread) if spread > 0 else np.zeros(len(values))


Check = Callable[[list[Measured], Limits], dict[str, str]]
CHECKS: dict[str, Check] = {
    "near duplicate": duplicated,
    "dark": dark,
    "blurred": blurred,
    "label mismatch": misplaced,
    "outlier classes": unusual,
}
"""Name of a check -> the samples that it proposes, with reasons."""
