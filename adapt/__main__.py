"""The program `segadapt`, also as `python -m adapt`: handles SIGTERM and Ctrl-C first, then loads
the commands, which takes a second.
"""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process; its exit code (`adapt.cli.main`)."""
    # Until a command handles it itself, SIGTERM is an interruption; and the system would drop a
    # signal that a container's first process does not handle.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    by_hand = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_hand:
        signal.signal(signal.SIGINT, _end_on_ctrl_c)
    from adapt.cli.main import main as run_command

    if by_hand:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # commands clean up
    return run_command()


def _end_on_ctrl_c(*_: object) -> None:
    """End without Python's traceback, while nothing has begun."""
    os.write(2, b"Aborted.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
