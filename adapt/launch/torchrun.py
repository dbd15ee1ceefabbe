"""torchrun (`python -m adapt.launch.torchrun ARGUMENTS`) that also says which rank failed first.

Into the folder SEGADAPT_STATUS_DIR it writes `failure.json`: rank, and exit code, where a signal is
negative. Its own exit code is that rank's, or 1, so that it is known where the disk is full too.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from adapt.places import status_dir


def run_elastic(arguments: list[str], folder: Path) -> int:
    """0, the failing rank's exit code, or 1 where it has none or this process was asked to
    stop."""
    try:
        main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        with suppress(OSError):
            (folder / "failure.json").write_text(json.dumps([rank, failure.exitcode]))
        return max(1, failure.exitcode)
    except SignalException:
        return 1
    return 0


if __name__ == "__main__":
    folder = status_dir(os.environ)
    assert folder is not None, "adapt.launch.supervisor names the folder"
    sys.exit(run_elastic(sys.argv[1:], folder))
