"""Lists of names beside a raw folder: the images of a split, the samples to skip.

A line is a name as people and tools write it: below the images' folder, below the raw folder, or an
absolute path; with or without its suffix; slashes of either kind; `#` starts a comment, and what
follows the first name on a line is ignored. A name that fits two files is never resolved to one.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from adapt.data.raw_images import IMAGE_SUFFIXES
from adapt.data.text_files import read_text

Files = dict[str, Path]
"""key -> file."""


MOST_COMPARED = 3000
"""Names of which a hint is chosen, to answer within a tenth of a second."""


class ListedName(NamedTuple):
    """A line with a name, and its number from 1."""

    line: int
    text: str


def read_names(path: Path) -> list[ListedName]:
    """The lines of a list that hold names. `JobError` where there is no such file."""
    lines = enumerate(re.split(r"\r\n|\r|\n", read_text(path)), 1)
    stripped = (ListedName(number, line.strip().strip("\0")) for number, line in lines)
    return [one for one in stripped if one.text and not one.text.startswith("#")]


class FileNames:
    """Finds the files of a folder by names as lists write them."""

    def __init__(self, files: Files, folder: Path) -> None:
        self.folder = folder.name
        self._whole: dict[str, set[str]] = defaultdict(set)
        self._tails: dict[str, set[str]] = defaultdict(set)
        for key, path in files.items():
            self._whole[key].add(key)
            parts = normal(path.relative_to(folder).as_posix()).split("/")
            for tails in (parts, [*parts[:-1], without_suffix(parts[-1])]):
                self._whole["/".join(tails)].add(key)
                for start in range(1, len(tails)):
                    self._tails["/".join(tails[start:])].add(key)

    def find(self, text: str) -> set[str]:
        """The keys of the files that a line fits: one, none, or several where it is ambiguous."""
        for name in readings(text):
            found = self._find_name(name)
            if found:
                return found
        return set()

    def _find_name(self, name: str) -> set[str]:
        parts = name.split("/")
        below = [index for index, part in enumerate(parts[:-1]) if part == self.folder]
        inside = ["/".join(parts[index + 1 :]) for index in reversed(below)]
        for table, names in ((self._whole, [name, *inside]), (self._tails, [name])):
            for one in (form for whole in names for form in (whole, without_suffix(whole))):
                if one in table:
                    return table[one]
        return set()

    def near(self, text: str) -> str:
        """` (did you mean 'x'?)` for a name that is like a known one."""
        name = next(readings(text))
        last = name.rpartition("/")[2]
        alike = [one for one in self._whole if one.rpartition("/")[2] == last]
        known = alike or list(self._whole)[:MOST_COMPARED]
        close = get_close_matches(name, known, n=1, cutoff=0.6)
        return f" (did you mean {close[0]!r}?)" if close else ""


def readings(text: str) -> Iterator[str]:
    """The names that a line may mean: all of it, up to a comment, up to a tab, comma, semicolon or
    space.
    """
    for separator in (r"$", r"\s#", r"[\t,;]", r"\s"):
        start = re.split(separator, text, maxsplit=1)[0].strip().strip("'\"")
        yield normal(start)


def normal(name: str) -> str:
    """A path in one form: forward slashes, no `./`, composed letters."""
    parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def without_suffix(name: str) -> str:
    """A name without the suffix of an image file, if it has one."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name


def ambiguous(keys: Iterable[str], files: Files, folder: Path) -> str:
    """The files that one name fits, for messages."""
    names = sorted(files[key].relative_to(folder).as_posix() for key in keys)
    return " and ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
