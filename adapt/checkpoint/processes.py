"""Processes as others know them: on the same machine it can be said for certain that one has ended.

A number alone says little: containers share none, and a number is given again. So a process is its
number, the time of its start, and the space in which numbers mean processes.
"""

import os
from pathlib import Path


def process_space() -> str | None:
    """The boot of the machine and the namespace of process numbers; None where the system does not
    say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def start_ticks(pid: int) -> int | None:
    """When a process of this space started, in clock ticks since the boot; None where the system
    does not say."""
    try:
        return int(_stat(pid)[19])
    except OSError:
        return None


def has_ended(pid: int, started: int | None) -> bool:
    """True where the process of this space that started then is certainly gone."""
    if not is_alive(pid):
        return True
    try:
        fields = _stat(pid)
    except OSError:  # hidden, or gone just now
        return False
    return fields[0] in "ZX" or int(fields[19]) != started


def is_alive(pid: int) -> bool:
    """True where a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on, behind the name, which may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
