"""Reads splits in a process of its own, so that a crash, a hang or a memory hog is a result and not
the end of the tests.

`python -m tests.data.packed.guarded` imports the readers once, then forks for each line
`[kind, uri, limit_s]` of its input and answers with a line of JSON: an `Outcome`.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.verify import verify
from adapt.errors import DataError, JobError
from storage.errors import StoreError
from storage.shards.cache import ShardCache
from storage.stores import open_store

READ_S = 20
"""Longer than any reading of a tiny split takes on a busy machine."""
ADDRESSES_BYTES = 3 << 30
"""What a child may map beyond its parent's; each thread reserves 72 MB without touching them."""
ID_TABLE = np.arange(256, dtype=np.uint8)[::-1].copy()

REFUSALS = (DataError, StoreError, JobError)


class Outcome(NamedTuple):
    """How a reading ended: `read`, the name of an exception, or of the signal that killed it."""

    ended: str
    message: str = ""
    grown_bytes: int = 0


def read(uri: str) -> None:
    """Decode every sample of split `train`, image and label."""
    with tempfile.TemporaryDirectory() as folder:
        split = PackedSplit(open_store(uri), "train", ShardCache(Path(folder)), ID_TABLE)
        try:
            for sample in range(len(split)):
                split.read(sample)
        finally:
            split.close()


def check(uri: str) -> None:
    """`verify` split `train`."""
    verify(open_store(uri), "train", workers=1).refuse()


def starve(uri: str) -> None:
    """Ask for more memory than a child may have, and hide it as a decoder might."""
    try:
        bytearray(2 * ADDRESSES_BYTES)
    except MemoryError as error:
        raise DataError(f"{uri}: cannot be decoded") from error


READERS: dict[str, Callable[[str], None]] = {"read": read, "verify": check}
"""What must read or refuse any split."""
BROKEN: dict[str, Callable[[str], None]] = {
    "hog": lambda _: bytearray(b"x" * 300_000_000).clear(),
    "starve": starve,
    "crash": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": lambda _: signal.pause(),
}
"""What the guard is there to see."""


def outcome_of(reader: Callable[[str], None], uri: str) -> Outcome:
    """Run a reader here; a refusal that memory forced is no refusal but a `MemoryError`."""
    before_bytes = peak_bytes()
    try:
        reader(uri)
        return Outcome("read", "", peak_bytes() - before_bytes)
    except BaseException as error:  # noqa: BLE001, whatever ends it is the outcome
        ended = "MemoryError" if out_of_memory(error) else type(error).__name__
        return Outcome(ended, str(error), peak_bytes() - before_bytes)


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error is, or comes of, a `MemoryError`."""
    return error is not None and (
        isinstance(error, MemoryError)
        or out_of_memory(error.__cause__)
        or out_of_memory(error.__context__)
    )


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_child(task: Callable[[], str], limit_s: int = READ_S) -> tuple[str, str]:
    """(what `task` returned, the signal that killed it) in a forked child of bounded memory; `task`
    may extend its time by `signal.alarm`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        bound_bytes = mapped_bytes() + ADDRESSES_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (bound_bytes, bound_bytes))
        signal.alarm(limit_s)
        try:
            os.write(writing, task().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return text, signal.Signals(status).name if os.WIFSIGNALED(status) else ""


def mapped_bytes() -> int:
    """The addresses that this process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def guarded(kind: str, uri: str, limit_s: int) -> Outcome:
    """A reader's outcome in a child."""
    reader = (READERS | BROKEN)[kind]
    text, killed_by = in_child(lambda: json.dumps(outcome_of(reader, uri)), limit_s)
    return Outcome(*json.loads(text)) if text else Outcome(killed_by or "nothing")


class Guard:
    """The process that reads, as a context manager: `guard(kind, uri) -> Outcome`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.data.packed.guarded"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(READ_S)
        self._process.stdout.close()

    def __call__(self, kind: str, uri: str, limit_s: int = READ_S) -> Outcome:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([kind, uri, limit_s]) + "\n")
        return Outcome(*json.loads(self._process.stdout.readline()))


def main() -> None:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        print(json.dumps(guarded(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
