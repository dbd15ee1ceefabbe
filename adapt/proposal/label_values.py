"""The ids or colours in the labels of a raw split, with their pixels."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from adapt.batch import IGNORED
from adapt.data.archives import readable
from adapt.data.colours import RGB, code_of
from adapt.data.datasets import RawLayout
from adapt.data.raw_images import read_header
from adapt.data.raw_labels import (
    colour_fault,
    label_errors,
    read_colour_pixels,
    stored_fault,
)
from adapt.errors import DataError

MOST_COLOURS = 254
"""Of classes; more are blended edges."""
THREADS = 4

Value = int | RGB
"""An id, or a colour."""


class LabelValues(NamedTuple):
    """Pixels of each value in the labels that were read. `palette`: the colours that the files show
    for ids, where they have any. `num_labels` counts all, `num_read` those that were read.
    """

    coloured: bool
    pixels: Mapping[Value, int]
    palette: Mapping[int, RGB]
    num_read: int
    num_labels: int

    def share(self, value: Value) -> float:
        """The value's share of all pixels that were read."""
        return self.pixels.get(value, 0) / max(1, sum(self.pixels.values()))


def count_values(
    layout: RawLayout,
    paths: Sequence[Path],
    most: int,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> LabelValues:
    """Count the values of at most `most` labels, spread evenly over all.

    Labels are colours where the files have three channels and the layout knows no ids of its own.
    Raises `DataError` naming a file that no label can be, and for more colours than classes.
    """
    chosen = spread(paths, most)
    coloured = layout.known_ids is None and is_coloured(chosen[0])
    pixels: Counter[Value] = Counter()
    count = count_colours if coloured else (lambda path: count_ids(layout, path))
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (path, found) in enumerate(zip(chosen, pool.map(count, chosen), strict=True), 1):
            pixels.update(found)
            refuse_blended(pixels, path, coloured)
            on_progress(done, len(chosen))
    palette = {} if coloured else palette_of(chosen[0])
    return LabelValues(coloured, pixels, palette, len(chosen), len(paths))


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the paths, evenly spaced."""
    count = min(most, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def is_coloured(path: Path) -> bool:
    """Return whether a label file stores colours. Raises `DataError` for a corrupt one."""
    with label_errors(path):
        header = read_header(path)
    return stored_fault(header) is not None and colour_fault(header) is None


def count_ids(layout: RawLayout, path: Path) -> Counter[Value]:
    """id -> pixels of one label."""
    counts = np.bincount(layout.read_label(path).ravel())
    return Counter({int(one): int(counts[one]) for one in np.flatnonzero(counts)})


def count_colours(path: Path) -> Counter[Value]:
    """(red, green, blue) -> pixels of one label."""
    rgb = read_colour_pixels(path).reshape(-1, 3).astype(np.int32)
    codes, counts = np.unique(rgb @ np.array([1 << 16, 1 << 8, 1], np.int32), return_counts=True)
    return Counter(
        {
            (int(code) >> 16, int(code) >> 8 & 255, int(code) & 255): int(count)
            for code, count in zip(codes, counts, strict=True)
        }
    )


def refuse_blended(pixels: Mapping[Value, int], path: Path, coloured: bool) -> None:
    """`DataError` for more colours than a job can have classes."""
    if coloured and len(pixels) > MOST_COLOURS:
        raise DataError(
            f"{path}: expected at most {MOST_COLOURS} colours in all labels, got {len(pixels)} up "
            "to this file, as of blended edges or of photographs",
            fix="save labels without antialiasing, in a lossless format, and check which of the "
            "two folders holds the labels",
        )


def palette_of(path: Path) -> dict[int, RGB]:
    """The colours of a palette file by id; none for other files, and for a palette of greys, which
    writers add by themselves."""
    with label_errors(path), Image.open(readable(path)) as image:
        table = image.getpalette("RGB") if image.mode == "P" else None
    colours = np.array(table or [], np.uint8).reshape(-1, 3)
    if (colours == colours[:, :1]).all():
        return {}
    return {
        number: (int(red), int(green), int(blue))
        for number, (red, green, blue) in enumerate(colours)
        if number != IGNORED
    }


def colour_number(colour: RGB) -> int:
    """A colour as one number, to sort by."""
    return code_of(colour)
