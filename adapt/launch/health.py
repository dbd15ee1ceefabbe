"""The HEALTHCHECK of the image: `python -m adapt.launch.health` checks that the job of this
container makes progress.

The supervisor itself ends a job whose ranks have stalled for `train.stall_minutes`; this reports it
after half that time, so that the job can be inspected while it hangs. A container without ranks, as
of `pack`, is healthy. It starts in a tenth of a second: no torch is imported.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from adapt.checkpoint.processes import is_alive
from adapt.launch.rank_status import (
    STATUS_PREFIX,
    last_sign_s,
    read_statuses,
    read_supervisor,
)


def health(temporary: Path, now_s: float) -> tuple[bool, str]:
    """The health of the jobs whose status folders lie in `temporary`, and a line about it; the
    first trouble counts. `now_s` as `time.time()`."""
    folders = [folder for folder in temporary.glob(f"{STATUS_PREFIX}*") if _is_ours(folder)]
    lines = ["no job runs here"]
    for folder in folders:
        try:
            healthy, line = _health_of(folder, now_s)
        except FileNotFoundError:  # its job ends at this moment
            continue
        if not healthy:
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
    if not is_alive(supervisor):
        return False, f"the supervisor of a job is gone (pid {supervisor})"
    running = [status for status in read_statuses(folder) if status.exit_code is None]
    if not running:
        return True, "no rank runs at the moment"
    silent = {status: now_s - last_sign_s(folder, status) for status in running}
    worst = max(running, key=lambda status: silent[status] / status.stall_s)
    if silent[worst] > worst.stall_s / 2:
        return False, (
            f"rank {worst.rank}: no progress for {silent[worst] / 60:.1f} min; the job ends after "
            f"{worst.stall_s / 60:g} min (train.stall_minutes)"
        )
    return True, f"{len(running)} ranks make progress"


def main() -> int:
    """0 where all is healthy, else 1."""
    healthy, line = health(Path(tempfile.gettempdir()), time.time())
    print(line)
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
