"""The classes that annotators draw, and one image as it is drawn."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt.batch import IGNORED
from adapt.data.colour_tables import read_colour_table
from adapt.data.colours import RGB
from adapt.errors import DataError, known_names

Ids = npt.NDArray[np.uint8]
TABLE = "ids.csv"
"""The table of classes beside an export: `name,r,g,b,id`."""


class Annotated(NamedTuple):
    """An image by its file's name, and its labels (H, W) uint8: numbers of `ClassTable`, 255
    elsewhere."""

    file_name: str
    labels: Ids


class ClassTable(NamedTuple):
    """Classes in their order: names, colours, and ids of the dataset."""

    names: tuple[str, ...]
    colours: tuple[RGB, ...]
    ids: tuple[int, ...]

    def number(self, name: str, where: Path | str) -> int:
        """The number of a class. Raises `DataError` for an unknown one, in the export `where`."""
        if name not in self.names:
            raise DataError(
                f"{where}: expected a class of {TABLE}, {known_names(name, self.names)}",
                f"add it to {TABLE}, or rename it in the tool",
            )
        return self.names.index(name)

    def to_ids(self, labels: Ids) -> Ids:
        """Numbers -> ids of the dataset, 255 elsewhere."""
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.ids)] = self.ids
        return table[labels]

    def from_ids(self, ids: Ids, where: Path | str) -> Ids:
        """Ids of the dataset -> numbers, 255 elsewhere. Raises `DataError` for an unknown id."""
        table = np.full(256, IGNORED, np.uint8)
        table[list(self.ids)] = np.arange(len(self.ids))
        unknown = sorted({*np.unique(ids).tolist()} - {*self.ids, IGNORED})
        if unknown:
            raise DataError(f"{where}: expected ids of {TABLE} and 255, got {unknown[0]}")
        return table[ids]

    def text(self) -> str:
        """The file `ids.csv`."""
        rows = zip(self.names, self.colours, self.ids, strict=True)
        lines = [f'"{name}",{r},{g},{b},{one}' for name, (r, g, b), one in rows]
        return "\n".join(["name,r,g,b,id", *lines, ""])


def read_classes(folder: Path) -> ClassTable:
    """The table `ids.csv` in a folder. Raises `DataError` where there is none."""
    path = folder / TABLE
    if not path.is_file():
        raise DataError(
            f"{path}: expected the table of classes, got none",
            "put the file that `suggest` wrote there, or write name,r,g,b,id with a row a class",
        )
    rows = read_colour_table(path).classes
    names, colours, ids = zip(*rows, strict=True)
    return ClassTable(names, colours, ids)
