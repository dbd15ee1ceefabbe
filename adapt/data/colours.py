"""Labels that are colours: exact colours -> ids. A colour that no class has is never guessed; it is
named with its pixels and the nearest class.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt.batch import IGNORED
from adapt.data.label_maps import LabelSpace
from adapt.errors import DataError, JobError, counted

RGB = tuple[int, int, int]
UNKNOWN = -1
MOST_NAMED = 5
"""Unknown colours that a message names, those of most pixels."""
FIX = (
    "correct the labels, add the colours to the table, or leave their pixels out with "
    "--ignore-colour R,G,B"
)


class ColouredClass(NamedTuple):
    """A row of a table: the id that stands for a colour."""

    name: str
    colour: RGB
    id: int


class UnknownColour(NamedTuple):
    """A colour that no class has: its pixels and files in all labels, the nearest class."""

    colour: RGB
    pixels: int
    files: int
    nearest: str

    def __str__(self) -> str:
        return (
            f"unknown colour {self.colour}: {counted(self.pixels, 'pixel')} in "
            f"{counted(self.files, 'file')}, nearest {self.nearest}"
        )


class UnknownColours(DataError):
    """A label has colours that no class has; `pixels` counts each."""

    def __init__(self, path: Path, pixels: Mapping[RGB, int], table: "ColourTable") -> None:
        self.pixels = dict(pixels)
        named = table.described(self.pixels)
        super().__init__(f"{path}: {counted(len(pixels), 'unknown colour')}: {named}", fix=FIX)


class ColourTable:
    """Exact colours and their ids. `JobError` where two rows share a colour but not the id."""

    def __init__(self, classes: Iterable[ColouredClass]) -> None:
        self.classes = tuple(dict.fromkeys(classes))
        owners: dict[RGB, ColouredClass] = {}
        for one in self.classes:
            other = owners.setdefault(one.colour, one)
            if other.id != one.id:
                raise JobError(
                    f"--colours: expected one class for each colour, got {other.name!r} and "
                    f"{one.name!r} for {one.colour}",
                    fix="give one of them another colour, in the labels too",
                )

    def with_ignored(self, colours: Sequence[RGB]) -> "ColourTable":
        """The table with colours whose pixels no loss and no score counts."""
        return ColourTable(
            [*self.classes, *(ColouredClass("ignored", c, IGNORED) for c in colours)]
        )

    def key(self) -> list[list[int]]:
        """All that decides packed bytes."""
        return sorted([*one.colour, one.id] for one in self.classes)

    @cached_property
    def _ids(self) -> npt.NDArray[np.int16]:
        """(2^24,) id of each colour, `UNKNOWN` elsewhere."""
        table = np.full(1 << 24, UNKNOWN, np.int16)
        for one in self.classes:
            table[code_of(one.colour)] = one.id
        return table

    def ids_of(self, pixels: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB -> (H, W) uint8 ids. Raises `UnknownColours`."""
        codes = pixels[..., 0].astype(np.int32) << 16
        codes |= pixels[..., 1].astype(np.int32) << 8
        codes |= pixels[..., 2]
        ids = self._ids[codes]
        unknown = ids == UNKNOWN
        if unknown.any():
            found, counts = np.unique(codes[unknown], return_counts=True)
            colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found]
            pixels_of = dict(zip(colours, map(int, counts), strict=True))
            raise UnknownColours(path, pixels_of, self)
        return ids.astype(np.uint8)

    def nearest(self, colour: RGB) -> ColouredClass:
        """The class of the least distance in RGB."""
        return min(
            self.classes,
            key=lambda one: sum((a - b) ** 2 for a, b in zip(one.colour, colour, strict=True)),
        )

    def described(self, pixels: Mapping[RGB, int]) -> str:
        """The most frequent unknown colours with their nearest classes, for messages."""
        most = Counter(pixels).most_common(MOST_NAMED)
        named = [
            f"{colour} in {counted(count, 'pixel')}, nearest {self.near(colour)}"
            for colour, count in most
        ]
        more = len(pixels) - len(most)
        return "; ".join(named) + (f"; and {counted(more, 'more colour')}" if more else "")

    def near(self, colour: RGB) -> str:
        """The nearest class, for messages."""
        one = self.nearest(colour)
        return f"{one.name!r} {one.colour}"


def code_of(colour: RGB) -> int:
    """A colour as one number."""
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def colours_of(space: LabelSpace, dataset: str) -> ColourTable:
    """The colours of a label space -> the first id of each class in this dataset; classes that the
    dataset has not are left out. `JobError` as `LabelSpace.table`.
    """
    space.table(dataset)
    return ColourTable(
        ColouredClass(one.name, one.colour, one.ids[dataset][0])
        for one in space.root
        if one.ids.get(dataset)
    )
