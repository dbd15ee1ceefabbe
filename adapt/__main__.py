"""The program `segadapt`, also as `python -m adapt`: handles SIGTERM first, then loads the
commands, which takes a second.
"""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process; its exit code (`adapt.cli.main`)."""
    # Until a command handles it itself, SIGTERM is an interruption; and the system would drop a
    # signal that a container's first process does not handle.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    from adapt.cli.main import main as run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
