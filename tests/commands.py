"""The commands as users run them: `call` in this process, `start` and `finish` in one of their own,
where signals and exit codes are the system's.
"""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from adapt.cli.main import main
from tests.processes import ROOT, Process

FORGOTTEN = ("MLFLOW_TRACKING_URI", "TORCHELASTIC_RUN_ID", "PET_NNODES", "PET_NPROC_PER_NODE")
"""Variables of whoever runs the tests that would change what a command does."""
ONLY_RANK = {
    "TORCHELASTIC_RUN_ID": "tests",
    **dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK"), "0"),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"), "1"),
}
"""What torchrun tells a rank that is alone."""


class Ended(NamedTuple):
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def call(*argv: object, folder: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command in this process, in `folder`, with its scratch folder there.

    `run` trains in this process too, as torchrun's only rank would, unless `--processes` is asked.
    """
    ranks = {} if "--processes" in argv else ONLY_RANK
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["entrypoint.py", *map(str, argv)]),
        patch.dict(os.environ, environment_of(folder, environment) | ranks, clear=True),
        contextlib.chdir(folder),
        _process_settings_kept(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main()
    return Ended(code, out.getvalue(), err.getvalue())


def start(
    *argv: object, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a command as a process of its own, in `folder`, with its scratch folder there."""
    return start_python(ROOT / "entrypoint.py", *argv, folder=folder, environment=environment)


def start_python(
    *argv: object, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start this interpreter with these arguments, in `folder`, on one thread."""
    return Process(
        [sys.executable, *map(str, argv)],
        cwd=folder,
        env=environment_of(folder, environment) | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 180) -> Ended:
    """Wait for a process and read the rest of what it wrote."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def environment_of(folder: Path, more: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment with the scratch folder in `folder`, and `more`."""
    kept = {name: value for name, value in os.environ.items() if name not in FORGOTTEN}
    ours = {
        "SEGADAPT_ROOT": str(folder),  # whatever this machine is, tests run on none
        "SEGADAPT_SCRATCH_DIR": str(folder / "scratch"),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return kept | ours | dict(more or {})


@contextlib.contextmanager
def _process_settings_kept() -> Iterator[None]:
    """Puts back the signal handlers and the log handlers that a command sets for its process."""
    root, numbers = logging.getLogger(), (signal.SIGTERM, signal.SIGINT)
    signals = {number: signal.getsignal(number) for number in numbers}
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)
