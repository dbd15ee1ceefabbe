"""One node's processes: starts torchrun, passes signals on, and decides the exit code itself.

torchrun turns every failure into 1, so each rank leaves a file that says how it ended
(`Ending`), and the first real failure decides. The process that starts this may be a container's
first: it outlives its ranks, and a stop asked of it reaches them once.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from adapt.errors import Interrupted

STATUS_VARIABLE = "SEGADAPT_STATUS_DIR"
KILLED = 128 + signal.SIGKILL
_SHUTDOWN_SHARE = 0.9


class Ending(NamedTuple):
    """How a rank ended: exit code, and when (`time.time()`, of one node)."""

    rank: int
    exit_code: int
    time_s: float


def record_ending(folder: Path, rank: int, exit_code: int) -> None:
    """Leave a rank's ending for the process that started it."""
    path = folder / f"rank-{rank}.json"
    path.with_suffix(".new").write_text(json.dumps(Ending(rank, exit_code, time.time())))
    path.with_suffix(".new").replace(path)


def endings(folder: Path) -> list[Ending]:
    """All ranks' endings, the earliest first."""
    found = [Ending(*json.loads(path.read_text())) for path in folder.glob("rank-*.json")]
    return sorted(found, key=lambda ending: ending.time_s)


def exit_code_of(
    torchrun_code: int, found: Sequence[Ending], processes: int, asked_to_stop: bool
) -> int:
    """What the node's processes come to: the first failure that is no interruption; 75 where a stop
    was asked for, or all were interrupted; 137 where a rank vanished without an ending."""
    if torchrun_code == 0:
        return 0
    interrupted = Interrupted.exit_code
    for ending in found:
        if ending.exit_code not in (0, interrupted):
            return ending.exit_code
    if asked_to_stop or len(found) == processes:
        return interrupted
    return KILLED


def torchrun_command(processes: int, grace_s: float, command: Sequence[str]) -> list[str]:
    """torchrun on this node alone, whose ranks may take nearly all of `grace_s` to end."""
    shutdown_s = max(5, int(grace_s * _SHUTDOWN_SHARE))
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "--max-restarts", "0"),
        *("--shutdown-timeout", str(shutdown_s)),
        *command,
    ]


def launch(
    command: Sequence[str], processes: int, grace_s: float, environment: Mapping[str, str]
) -> int:
    """Run `command` (a script and its arguments) in `processes` ranks; the exit code.

    SIGTERM and SIGINT are passed on, once. Its ranks find the folder for their endings in
    SEGADAPT_STATUS_DIR.
    """
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="segadapt-status-") as folder:
        ranks_environment = {
            "OMP_NUM_THREADS": str(max(1, cores // processes)),
            **environment,
            STATUS_VARIABLE: folder,
        }
        torchrun = subprocess.Popen(
            torchrun_command(processes, grace_s, command),
            env=ranks_environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches this process alone
        )
        asked = _pass_signals_on(torchrun)
        code = torchrun.wait()
        return exit_code_of(code, endings(Path(folder)), processes, bool(asked))


def _pass_signals_on(process: "subprocess.Popen[bytes]") -> list[int]:
    """From now on the first SIGTERM or SIGINT is passed on as SIGTERM; the list gets it."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if not asked:
            asked.append(number)
            process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return asked
