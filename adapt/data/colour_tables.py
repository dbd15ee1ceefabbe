"""Tables of colours in files, as annotation tools write them:

name,r,g,b,id        CSV with a header, of commas, semicolons or tabs; without the column `id`, rows
                     count from 0
road:128,64,128::    CVAT's labelmap.txt, rows count from 0
- {name: road, colour: [128, 64, 128], id: 0}        YAML
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt.config.strict_yaml import parse_yaml
from adapt.data.colours import RGB, ColouredClass, ColourTable
from adapt.data.text_files import read_text
from adapt.errors import JobError


def is_table(path: Path) -> bool:
    """True for a file that is a table; false for a job spec and for the name of a label space."""
    if path.suffix.lower() in TEXT_TABLES:
        return True
    if path.suffix.lower() not in YAML_SUFFIXES or not path.is_file():
        return False
    values = parsed_yaml(path)
    return not isinstance(values, dict) or "classes" not in values


TEXT_TABLES = (".csv", ".tsv", ".txt")
YAML_SUFFIXES = (".yaml", ".yml")


def read_colour_table(path: Path) -> ColourTable:
    """A table in a file: YAML, CSV, or CVAT's labelmap.txt. `JobError` names its line or row."""
    in_yaml = path.suffix.lower() in YAML_SUFFIXES
    found = yaml_rows(path) if in_yaml else text_rows(read_text(path), path)
    rows = [known_values(row, number, path) for number, row in enumerate(found)]
    refuse_some_ids(rows, path)
    classes = [parsed_row(row, number, path) for number, row in enumerate(rows)]
    if not classes:
        raise JobError(f"--colours: {path}: expected rows of name and colour, got none")
    return ColourTable(classes)


def parsed_yaml(path: Path) -> Any:
    """The values of a YAML file. `JobError` with the line of a mistake, as a key that is there
    twice."""
    return parse_yaml(read_text(path), f"--colours: {path}")


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
    lines = [line for line in text.splitlines() if line.strip()]
    start = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    first = lines[start] if start < len(lines) else ""
    if re.fullmatch(r"[^:]*:\s*\d+\s*,\s*\d+\s*,\s*\d+\s*(:.*)?", first):
        parts = [line.split(":") for line in lines[start:] if not line.startswith("#")]
        return [{"name": one[0], "colour": one[1] if len(one) > 1 else ""} for one in parts]
    delimiter = next((one for one in DELIMITERS if has_colours(columns(first, one))), None)
    if delimiter is None:
        raise JobError(
            f"--colours: {path}: expected the header name,r,g,b or name,r,g,b,id, got {first!r}",
            fix="write that header as the first line",
        )
    header = columns(first, delimiter)
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise JobError(
            f"--colours: {path}: expected each column once, got two columns {twice[0]!r}",
            fix="leave one of them out",
        )
    comment = r"#(\s|$)" if SAME.get(header[0], header[0]) == "colour" else "#"
    rows = [line for line in lines[start + 1 :] if not re.match(comment, line)]
    content = io.StringIO("\n".join(rows))
    return list(csv.DictReader(content, header, delimiter=delimiter, skipinitialspace=True))


DELIMITERS = (",", ";", "\t")


def columns(line: str, delimiter: str) -> list[str]:
    """The names in the header of a CSV, in lower case."""
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip().lower() for cell in cells]


def has_colours(header: Sequence[str]) -> bool:
    """Return whether a header has a column `colour`, or those of its three numbers."""
    names = {SAME.get(name, name) for name in header}
    return "colour" in names or names.issuperset("rgb")


SAME = {"red": "r", "green": "g", "blue": "b", "color": "colour", "class": "name", "label": "name"}
"""Other names of columns and keys."""
KNOWN = ("name", "colour", "r", "g", "b", "id")


def known_values(values: Mapping[Any, Any], number: int, path: Path) -> dict[str, Any]:
    """A row under the names of `KNOWN`. `JobError` for another name, a name that is there twice, or
    a cell that no column has.
    """
    row: dict[str, Any] = {}
    for key, value in values.items():
        if key in (None, "") and all(map(is_blank, value or ())):  # a delimiter at a line's end
            continue
        word = "a cell without a column" if key is None else repr(key)
        name = SAME.get(str(key).lower(), str(key).lower())
        if key is None or name not in KNOWN or name in row:
            raise JobError(
                f"--colours: {path}: row {number + 1}: expected name, colour (or r, g, b) and id, "
                f"each once, got {word}",
                fix="rename it to the one that it is, or leave it out",
            )
        row[name] = value
    return row


def refuse_some_ids(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """`JobError` where some rows state an id and others do not: none is guessed beside others."""
    blank = [number for number, row in enumerate(rows) if is_blank(row.get("id"))]
    if blank and any("id" in row for row in rows):
        raise JobError(
            f"--colours: {path}: row {blank[0] + 1}: expected an id as other rows have, got none",
            fix="give each row an id, or none, so that rows count from 0",
        )


def is_blank(value: Any) -> bool:
    """Return whether a cell or value states nothing."""
    return value is None or not str(value).strip()


def parsed_row(row: Mapping[str, Any], number: int, path: Path) -> ColouredClass:
    """One row; its number is its id where no row states one."""
    try:
        colour = row["colour"] if row.get("colour") else [row[name] for name in "rgb"]
        return ColouredClass(
            str(row.get("name", number)).strip(), parsed_colour(colour), byte(row.get("id", number))
        )
    except (ValueError, TypeError, LookupError) as error:
        raise JobError(
            f"--colours: {path}: row {number + 1}: expected a name, a colour of three numbers from "
            f"0 to 255 and an id from 0 to 255, got {dict(row)}",
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
