"""Tables of colours in files, as annotation tools write them:

name,r,g,b,id        CSV with a header; `id` may be left out, then rows count from 0
road:128,64,128::    CVAT's labelmap.txt, rows count from 0
- {name: road, colour: [128, 64, 128], id: 0}        YAML
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from adapt.data.colours import RGB, ColouredClass, ColourTable
from adapt.data.text_files import read_text
from adapt.errors import JobError


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
