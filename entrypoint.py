"""The container's command and the command line: runs `adapt.cli` and turns what went wrong into an
exit code.

0 done, 2 job spec or command line, 3 storage, 4 data, 75 interrupted and saved (run the same
command again), 1 a bug.
"""

import os
import sys
import traceback

from adapt.cli import app, say_error
from adapt.errors import DataError, Interrupted, JobError
from adapt.launch import record_ending
from adapt.places import find_place
from storage.store import StoreError


def main() -> int:
    """Run one command; the exit code, which a rank also leaves for the process that started it."""
    code = _ended()
    place = find_place(os.environ)
    if place.status_dir is not None:
        record_ending(place.status_dir, place.rank, code)
    return code


def _ended() -> int:
    try:
        app()
    except SystemExit as ended:  # typer's own end: done, wrong usage (2) or Ctrl-C (130)
        return int(ended.code or 0)
    except (JobError, DataError, StoreError, Interrupted) as error:
        say_error(str(error), kind=type(error).__name__)
        return error.exit_code
    except Exception:  # noqa: BLE001 - the one broad catch: a bug ends with its traceback and 1
        traceback.print_exc()
        say_error("this is a bug in SegAdapt: please report it with the lines above", kind="Bug")
        return 1
    raise AssertionError("typer ends a command with SystemExit")


if __name__ == "__main__":
    sys.exit(main())
