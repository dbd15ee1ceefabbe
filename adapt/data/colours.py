"""Labels that are colours: exact colours -> ids. A colour that no class has is never guessed; it is
named with its pixels and the nearest class.

Tables come from label spaces, or from files as annotation tools write them:

    name,r,g,b,id        CSV with a header; `id` may be left out, then rows count from 0
    road:128,64,128::    CVAT's labelmap.txt, rows count from 0
    - {name: road, colour: [128, 64, 128], id: 0}        YAML
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from adapt.batch import IGNORED
from adapt.data.label_maps import LabelSpace
from adapt.data.text_files import read_text
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


def is_table(path: Path) -> bool:
    """True for a file that is a table; false for a job spec and for the name of a label space."""
    if path.suffix in TEXT_TABLES:
        return True
    if path.suffix not in YAML_SUFFIXES or not path.is_file():
        return False
    values = parsed_yaml(path)
    return not isinstance(values, dict) or "classes" not in values


TEXT_TABLES = (".csv", ".tsv", ".txt")
YAML_SUFFIXES = (".yaml", ".yml")


def read_colour_table(path: Path) -> ColourTable:
    """A table in a file: YAML, CSV, or CVAT's labelmap.txt. `JobError` names its line or row."""
    found = yaml_rows(path) if path.suffix in YAML_SUFFIXES else text_rows(read_text(path), path)
    classes = [parsed_row(row, number, path) for number, row in enumerate(found)]
    if not classes:
        raise JobError(f"--colours: {path}: expected rows of name and colour, got none")
    return ColourTable(classes)


def parsed_yaml(path: Path) -> Any:
    """The values of a YAML file. `JobError` for what is none."""
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise JobError(f"--colours: {path}: not YAML: {error}", fix="correct the file") from error


def yaml_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a YAML list, or of a mapping of names to colours."""
    values = parsed_yaml(path)
    if isinstance(values, dict):
        return [{"name": name, "colour": colour} for name, colour in values.items()]
    if isinstance(values, list) and all(isinstance(one, dict) for one in values):
        return values
    raise JobError(
        f"--colours: {path}: expected a list of classes, got {values!r:.80}",
        fix="write lines such as `- {name: road, colour: [128, 64, 128], id: 0}`",
    )


def text_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    """The rows of CSV with a header, or of `NAME:R,G,B:...` lines."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and re.fullmatch(r"[^:]*:\s*\d+\s*,\s*\d+\s*,\s*\d+\s*(:.*)?", lines[0]):
        parts = [line.split(":") for line in lines]
        return [{"name": one[0], "colour": one[1] if len(one) > 1 else ""} for one in parts]
    found = csv.DictReader(io.StringIO("\n".join(lines)), skipinitialspace=True)
    header = [name.strip().lower() for name in found.fieldnames or ()]
    names = {SAME.get(name, name) for name in header}
    if "colour" not in names and not names.issuperset("rgb"):
        raise JobError(
            f"--colours: {path}: expected the header name,r,g,b or name,r,g,b,id, got "
            f"{','.join(header)!r}",
            fix="write that header as the first line",
        )
    found.fieldnames = header
    return list(found)


SAME = {"red": "r", "green": "g", "blue": "b", "color": "colour", "class": "name", "label": "name"}
"""Other names of columns and keys."""


def parsed_row(values: Mapping[str, Any], number: int, path: Path) -> ColouredClass:
    """One row; its number is its id where it states none."""
    row = {SAME.get(str(key), str(key)): value for key, value in values.items()}
    try:
        colour = row["colour"] if row.get("colour") else [row[name] for name in "rgb"]
        identity = row.get("id")
        return ColouredClass(
            str(row.get("name", number)).strip(),
            parsed_colour(colour),
            byte(number if identity in (None, "") else identity),
        )
    except (ValueError, TypeError, LookupError) as error:
        raise JobError(
            f"--colours: {path}: row {number + 1}: expected a name, a colour of three numbers from "
            f"0 to 255 and an id from 0 to 255, got {dict(values)}",
            fix="correct the row",
        ) from error


def parsed_colour(value: Any) -> RGB:
    """`[128, 64, 128]`, `128,64,128`, `128 64 128` or `#804080`. `ValueError` for anything else."""
    if isinstance(value, str) and re.fullmatch(r"#?[0-9A-Fa-f]{6}", value.strip()):
        digits = value.strip().removeprefix("#")
        value = [int(digits[start : start + 2], 16) for start in (0, 2, 4)]
    parts = re.split(r"[,\s]+", value.strip(" ()[]")) if isinstance(value, str) else value
    red, green, blue = (byte(part) for part in parts)
    return red, green, blue


def byte(value: Any) -> int:
    """A whole number from 0 to 255. `ValueError` for anything else."""
    number = int(str(value).strip())
    if not 0 <= number <= 255:
        raise ValueError(f"{number} is not from 0 to 255")
    return number


def ignored_colours(values: Sequence[str]) -> list[RGB]:
    """The colours of `--ignore-colour`. `JobError` for what is none."""
    try:
        return [parsed_colour(value) for value in values]
    except (ValueError, TypeError) as error:
        raise JobError(
            f"--ignore-colour: expected R,G,B with numbers from 0 to 255, got {list(values)}",
            fix="write --ignore-colour 0,0,0",
        ) from error
