"""The faults of raw files, collected so that one message names all of them, and what a packing
leaves out.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from adapt.data.colours import UnknownColour
from adapt.errors import MAX_CHARACTERS, MAX_SHOWN, DataError, counted

REPLACE_FILE = "replace the file, or leave the sample out with --skip KEY"
FIX_FILES = (
    "replace or rename them, leave samples out with --skip KEY or --skip-file LIST, leave out what "
    "has no partner with --pairs-only, or pack images alone with --unlabelled"
)


class Problem(NamedTuple):
    """One fault of one file; `key` is its sample's, where it has one; `fix` is empty where the
    general one serves.
    """

    path: str
    text: str
    key: str = ""
    fix: str = ""

    @classmethod
    def of(cls, path: Path, error: DataError, key: str) -> "Problem":
        """An error about a file, which opens with the file's path."""
        return cls(shown(path), error.problem.removeprefix(f"{path}: "), key, error.fix)

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def shown_name(text: str) -> str:
    """A line of a file as messages show it: as `shown`, in quotes; of a long one the beginning."""
    start = shown(text[: MAX_CHARACTERS + 1])
    return f"{start[:MAX_CHARACTERS]!r}..." if len(start) > MAX_CHARACTERS else repr(start)


def shown(path: Path | str) -> str:
    """A path as messages and JSON can hold it: bytes that are no UTF-8 and control characters as
    escapes.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


@dataclass
class Notes:
    """Counts of the files that a packing leaves out, includes although a user may not expect it, or
    converts, and of names that fit none, by reason.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    included: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)

    def update(self, other: "Notes") -> None:
        """Take over another's counts."""
        for kind, counts in vars(other).items():
            getattr(self, kind).update(counts)

    def lines(self) -> list[str]:
        """A line for each reason, for a terminal."""
        return [
            f"{kind.replace('_', ' ')}: {reason} ({count})"
            for kind, counts in self.as_json().items()
            for reason, count in counts.items()
        ]

    def as_json(self) -> dict[str, dict[str, int]]:
        """The reasons that occur, by kind."""
        found = {
            kind: {reason: count for reason, count in sorted(counts.items()) if count}
            for kind, counts in vars(self).items()
        }
        return {kind: counts for kind, counts in found.items() if counts}


class BadFiles(DataError):
    """Raw files that cannot be packed: all of them, of which the message has the first ten.
    `unknown_colours` counts them over all labels.
    """

    def __init__(
        self,
        raw_dir: Path,
        problems: Sequence[Problem],
        unknown_colours: Sequence[UnknownColour] = (),
    ) -> None:
        self.problems, self.unknown_colours = tuple(problems), tuple(unknown_colours)
        lines = [*first_ones(self.problems), *first_ones(self.unknown_colours)]
        head = f"{shown(raw_dir)}: {counted(len(self.problems), 'bad file')}:"
        fixes = dict.fromkeys(one.fix for one in self.problems if one.fix not in ("", REPLACE_FILE))
        super().__init__("\n  ".join([head, *lines]), fix="; ".join([*fixes, FIX_FILES]))

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """All problems and all unknown colours."""
        return {
            "problems": [one._asdict() for one in self.problems],
            "unknown_colours": [one._asdict() for one in self.unknown_colours],
        }


def first_ones(values: Sequence[object]) -> list[str]:
    """A line for each of the first ten, and one with the number of the others."""
    more = len(values) - MAX_SHOWN
    tail = [f"... and {more} more (--json has all)"] if more > 0 else []
    return [*map(str, values[:MAX_SHOWN]), *tail]


def refuse(raw_dir: Path, problems: Sequence[Problem]) -> None:
    """Nothing where there are no problems, else `BadFiles`."""
    if problems:
        raise BadFiles(raw_dir, problems)
