"""Runs one command and turns its failure into an exit code; `adapt.__main__` starts it.

0 done, 2 job spec or command line, 3 storage, 4 data, 75 interrupted and saved (run the same
command again), 130 Ctrl-C, 141 no reader of the output, 1 a bug.
"""

import errno
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from adapt.cli import app, say_error
from adapt.cli.messages import lossy_messages
from adapt.cli.options import console
from adapt.config.secrets import without_secrets
from adapt.errors import DataError, Interrupted, JobError
from adapt.launch.rank_status import WorkerStatus
from adapt.launch.verdict import write_failure
from adapt.places import Place, failure_file, find_place
from storage.errors import StoreError

PROGRAM = "segadapt"
"""The name in messages, and in the variable by which a shell asks for completions."""

GPU_MEMORY = (
    "the GPU is out of memory. Fix: set train.precision=bf16, lower batch_size of source and "
    "target (train.accumulate keeps the samples a step), or use smaller images (augment.crop_hw, "
    "size_hw)."
)

_DEVICE_ERRORS = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE)
"""Of odd files and sick disks, whose reading does not name them."""
_PATH_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP),
    *_DEVICE_ERRORS,
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE_BYTES = 16 << 20
_NO_READER = 128 + 13
"""The exit code of programs whose output has no reader any more: that of SIGPIPE."""
_BY_HAND = 128 + 2
"""The exit code of Ctrl-C."""

_CHECK_PATH = "check the path and the rights of this user on it"


class Failed(NamedTuple):
    """The end of a command that failed; `kind` is empty where typer has reported it."""

    exit_code: int
    kind: str = ""
    message: str = ""
    traceback_text: str = ""

    def shown(self) -> "Failed":
        """Without the secrets that a value of the user's may contain."""
        texts = map(without_secrets, (self.message, self.traceback_text))
        return Failed(self.exit_code, self.kind, *texts)


def main() -> int:
    """Run one command and return its exit code, which a rank also leaves for the supervisor."""
    with lossy_messages():
        return _main()


def _main() -> int:
    try:
        place = find_place(os.environ)
    except JobError as error:  # the platform contradicts itself
        message = without_secrets(str(error))
        say_error(message, kind=type(error).__name__)
        write_failure(failure_file(os.environ), type(error).__name__, message)
        return error.exit_code
    status = WorkerStatus(place.status_dir, place.rank, place.local_ranks)
    if place.status_dir is not None:
        status.end_on_sigterm()
    failed = _ended(place, status)
    status.ended(*failed)
    if failed.kind and failed.exit_code != Interrupted.exit_code and not place.supervised:
        write_failure(place.failure_file, *failed[1:])
    return failed.exit_code


def _ended(place: Place, status: WorkerStatus) -> Failed:
    try:
        app(prog_name=PROGRAM, obj=status)
    except SystemExit as ended:  # typer's own end: done, wrong usage (2) or Ctrl-C (130)
        return Failed(_code_of(ended))
    except Exception as error:  # noqa: BLE001 - the one broad catch: a bug ends with 1
        failed = _failure(error, place).shown()
        if failed.kind == "Bug":
            print(failed.traceback_text, file=sys.stderr, end="")
        if place.leader or not isinstance(error, Interrupted):  # all ranks stop at the same step
            say_error(failed.message, kind=failed.kind)
        return failed
    raise AssertionError("typer ends a command with SystemExit")


def _code_of(ended: SystemExit) -> int:
    """The exit code of a command that typer has ended; says so where Ctrl-C did."""
    reason = ended.__context__
    if isinstance(reason, BrokenPipeError):  # as of `| head`
        return _NO_READER
    if reason is not None and isinstance(reason.__cause__, KeyboardInterrupt):
        console.print("Aborted.")
    if reason is not None and isinstance(reason.__context__, KeyboardInterrupt):
        return _BY_HAND
    return ended.code if isinstance(ended.code, int) else int(bool(ended.code))


def _failure(error: Exception, place: Place) -> Failed:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, JobError | DataError | StoreError | Interrupted):
        return Failed(error.exit_code, type(error).__name__, str(error), text)
    torch = sys.modules.get("torch")  # importing it takes seconds, which most commands spare
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        message = f"{GPU_MEMORY} [{str(error).splitlines()[0]}]"
        return Failed(JobError.exit_code, "OutOfMemoryError", message, text)
    if isinstance(error, OSError):
        trouble = _disk_trouble(error, place)
        if trouble is not None:
            code = StoreError.exit_code if error.errno in _FULL else JobError.exit_code
            return Failed(code, "DiskError", trouble, text)
        path = error.filename or ("a file" if error.errno in _DEVICE_ERRORS else "")
        if path and error.errno in _PATH_ERRORS and not _trains():
            problem = f"{path}: {error.strerror}"
            return Failed(JobError.exit_code, "PathError", f"{problem}. Fix: {_CHECK_PATH}.", text)
    return Failed(1, "Bug", "this is a bug in SegAdapt. Fix: report it with the lines above.", text)


def _trains() -> bool:
    """Return whether the command runs a job, which names no files but the spec's and the stores':
    a path that it misses is not the user's, and 2 would be final for a platform."""
    return sys.argv[1:2] in (["run"], ["train"])


def _disk_trouble(error: OSError, place: Place) -> str | None:
    """Problem and fix of a full disk or a read-only scratch folder; None for other errors."""
    in_scratch = str(error.filename or "").startswith(str(place.scratch_dir))
    if error.errno in _FULL:
        if in_scratch or (error.filename is None and _is_full(place.scratch_dir)):
            return (
                f"a disk is full: {error.filename or place.scratch_dir}. Fix: set "
                "SEGADAPT_SCRATCH_DIR to a folder on another disk, or limit the cache by "
                "stream.cache_gb."
            )
        where = error.filename or "that of the output, or of a temporary file"
        return f"a disk is full: {where}. Fix: free space there."
    if error.errno in (errno.EROFS, errno.EACCES) and in_scratch:
        return (
            f"{error.filename}: {error.strerror}. Fix: set SEGADAPT_SCRATCH_DIR to a writable "
            "folder."
        )
    return None


def _is_full(folder: Path) -> bool:
    """Return whether the disk of a folder, or of the one that it is to be made in, is full."""
    there = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    return shutil.disk_usage(there).free < _LITTLE_BYTES
