"""Says whether the job of this container goes on: `python -m adapt.launch.health`, the HEALTHCHECK.

The supervisor itself ends a job whose ranks are silent for `train.stall_minutes`; this reports it
at half that time, so that somebody can look while it hangs. A container without ranks, as of
`pack`, is healthy. It starts in a tenth of a second: no torch is imported.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from adapt.launch.status import STATUS_PREFIX, is_alive, last_sign_s, read_statuses, read_supervisor


def health(temporary: Path, now_s: float) -> tuple[bool, str]:
    """Whether all is well with the jobs whose status folders lie in `temporary`, and a line that
    says so; the first trouble counts. `now_s` as `time.time()`."""
    folders = [folder for folder in temporary.glob(f"{STATUS_PREFIX}*") if _is_ours(folder)]
    lines = ["no job runs here"]
    for folder in folders:
        try:
            well, line = _health_of(folder, now_s)
        except FileNotFoundError:  # its job ends at this moment
            continue
        if not well:
            return False, line
        lines.append(line)
    return True, lines[-1]


def _is_ours(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.getuid()
    except FileNotFoundError:  # a job that has just ended
        return False


def _health_of(folder: Path, now_s: float) -> tuple[bool, str]:
    supervisor = read_supervisor(folder)
    if supervisor is None:
        return True, "a job begins"
    if not is_alive(supervisor.pid):
        return False, f"the first process of a job is gone (pid {supervisor.pid})"
    silent = {
        status.rank: now_s - last_sign_s(folder, status)
        for status in read_statuses(folder)
        if status.exit_code is None
    }
    if not silent:
        return True, "no rank runs at the moment"
    rank, longest_s = max(silent.items(), key=lambda item: item[1])
    if longest_s > supervisor.stall_s / 2:
        return False, (
            f"rank {rank} has achieved nothing for {longest_s / 60:.1f} min; the job ends itself "
            f"after {supervisor.stall_s / 60:g} (train.stall_minutes)"
        )
    return True, f"{len(silent)} ranks at work"


def main() -> int:
    """0 where all is well, else 1."""
    well, line = health(Path(tempfile.gettempdir()), time.time())
    print(line)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
