"""The streams of commands: a job does not end because its log cannot be written, and work that is
done does not fail because the reader of its answer is gone.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

import typer


class LossyStream:
    """A stream that drops what cannot be written: its disk is full, or its reader has ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop the rest."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lossy_messages() -> Iterator[None]:
    """Within it stderr drops what cannot be written; a closed one is left alone."""
    stream = sys.stderr
    if stream is not None:
        sys.stderr = cast("TextIO", LossyStream(stream))
    try:
        yield
    finally:
        sys.stderr = stream


def print_answer(value: object) -> None:
    """Print the answer of a command to stdout, a text or what becomes JSON.

    A reader that is gone does not change the exit code; a full disk does.
    """
    try:
        typer.echo(value if isinstance(value, str) else json.dumps(value, default=str))
    except BrokenPipeError:  # as of `| true`; Python writes the rest when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
