"""The failures that a user can fix, each with its exit code; storage has its own,
`storage.errors.StoreError` (3).

Anything else that escapes is a bug in SegAdapt and ends with exit code 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from storage.errors import FixableError

MAX_SHOWN = 10
"""Most names or files that a message lists."""

MAX_CHARACTERS = 200
"""Longest value that a message shows whole."""


class JobError(FixableError):
    """The job spec or the command line is wrong.

    Names the key, what was expected and what was got.
    """

    exit_code = 2


class DataError(FixableError):
    """The data contradicts what its layout or its manifest promises.

    Names the file or shard.
    """

    exit_code = 4


class Interrupted(Exception):
    """The platform requested a stop; the state is saved, and the same command resumes from
    there."""

    exit_code = 75


@contextmanager
def keys_renamed(beginning: str, instead: str) -> Iterator[None]:
    """Within it a `JobError` names its keys with another beginning: those of a section that stands
    elsewhere in the spec than the code expects."""
    try:
        yield
    except JobError as error:
        problem, fix = (text.replace(beginning, instead) for text in (error.problem, error.fix))
        raise JobError(problem, fix) from error


def known_names(found: object, known: Iterable[str], meant: Sequence[str] = ()) -> str:
    """`got 'x'; did you mean 'y'? (known: ...)`, the tail of every message about an unknown name.

    The hint is `meant`, else for texts that are like a known name; nothing is listed where nothing
    is known.
    """
    names = sorted(known)
    listed = f" (known: {', '.join(names)})" if names else ""
    return f"{got(found, names, meant)}{listed}"


def got(found: object, known: Iterable[str], meant: Sequence[str] = ()) -> str:
    """`got 'x'; did you mean 'y'?`, where the message lists the known names itself."""
    close = meant or (close_names(found, known) if isinstance(found, str) else [])
    hint = " or ".join(map(repr, close[:MAX_SHOWN]))
    return f"got {written(found)}" + (f"; did you mean {hint}?" if hint else "")


def close_names(found: str, known: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """The known name that is most like `found`, if any is."""
    return get_close_matches(found, sorted(known), n=1, cutoff=cutoff)


def written(value: object) -> str:
    """A value as a job spec has it: `null`, `true`, `[1, 2]`, `{a: 1}`, texts in quotes; of a long
    one the beginning."""
    match value:
        case None:
            text = "null"
        case bool():
            text = str(value).lower()
        case dict():
            text = f"{{{', '.join(f'{key}: {written(one)}' for key, one in value.items())}}}"
        case list() | tuple():
            text = f"[{', '.join(map(written, value))}]"
        case _:
            text = repr(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def counted(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`: a count with its noun, for messages."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
