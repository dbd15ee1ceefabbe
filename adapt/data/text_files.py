"""Text files as people and tools write them, on any system: lists of names, tables of colours."""

import codecs
from pathlib import Path

from adapt.errors import JobError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; UTF-32's starts with UTF-16's."""
SAMPLE_BYTES = 4096
MAX_BYTES = 256 << 20
"""Of a list; devices and pipes may never end."""


def read_text(path: Path) -> str:
    """A file of UTF-8 or UTF-16, with or without a mark. Bytes of another encoding come as in file
    names (surrogates), so that a list written by `ls` fits its files. `JobError` where it is
    missing, or too large to be one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise JobError(
            f"{path}: cannot be read: {error.strerror}", fix="pass a text file that is there"
        ) from error
    if len(data) > MAX_BYTES:
        raise JobError(
            f"{path}: expected a text file of at most {MAX_BYTES >> 20} MB, got more",
            fix="pass a text file",
        )
    return decoded_text(data)


def decoded_text(data: bytes) -> str:
    """The text of a file's bytes, as `read_text` reads it."""
    return data.decode(encoding_of(data), "surrogateescape" if is_utf8(data) else "replace")


def encoding_of(data: bytes) -> str:
    """By the mark, or by the zeros that UTF-16 has beside Latin letters."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    even, odd = data[:SAMPLE_BYTES:2].count(0), data[1:SAMPLE_BYTES:2].count(0)
    if even == odd == 0:
        return "utf-8"
    return "utf-16-le" if odd > even else "utf-16-be"


def is_utf8(data: bytes) -> bool:
    """Return whether the bytes are read as UTF-8."""
    return encoding_of(data).startswith("utf-8")
