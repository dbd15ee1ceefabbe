"""The program `segadapt`, also as `python -m adapt`: handles SIGTERM and Ctrl-C first, then loads
the commands, which takes a second.

Ctrl-C ends every command with one line and 130, unless the command handles it itself (`run`). A
command that has begun gets `KeyboardInterrupt`, so that it cleans up; a second Ctrl-C ends it at
once.
"""

import os
import signal
import sys
from types import FrameType

_RETRY_S = 0.02


def main() -> int:
    """Run the command line of this process; its exit code (`adapt.cli.main`)."""
    # Until a command handles it itself, SIGTERM is an interruption; and the system would drop a
    # signal that a container's first process does not handle.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    by_hand = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_hand:
        signal.signal(signal.SIGINT, _end_at_once)
    from adapt.cli.main import main as run_command

    try:
        if by_hand:
            signal.signal(signal.SIGALRM, _interrupt_late)
            signal.signal(signal.SIGINT, _interrupt)
        return run_command()
    except KeyboardInterrupt:  # before or after the command itself
        _end_at_once()
        raise
    finally:
        if by_hand:
            signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(*_: object) -> None:
    """End without Python's traceback."""
    os.write(2, b"Aborted.\n")
    os._exit(130)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, as soon as nothing is being imported: modules that are half
    loaded would answer it with errors of their own."""
    signal.signal(signal.SIGINT, _end_at_once)
    _raise_or_wait(frame)


def _interrupt_late(_number: int, frame: FrameType | None) -> None:
    """Ctrl-C came while something was imported."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        _raise_or_wait(frame)
    else:
        signal.raise_signal(signal.SIGINT)  # the command handles it itself by now


def _raise_or_wait(frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, _RETRY_S)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
