"""The result of a node's ranks: one exit code, and the failure to show.

Launchers turn every failure into 1, so ranks write how they ended (`adapt.launch.rank_status`), and
the first one that failed decides.
"""

import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from adapt.errors import Interrupted
from adapt.launch.rank_status import RankStatus

FAILURE_BYTES = 4000
"""Length of a termination message that Kubernetes keeps, nearly."""

OURS = (2, 3, 4, Interrupted.exit_code)
"""Exit codes that only a rank of ours ends with."""

_EARLY = (1, -signal.SIGTERM)
"""Codes of a child that SIGTERM reaches before its ranks report: torch's launcher's, and the
system's."""

RESUME = "run the same command again: it resumes from the last durable checkpoint"
MEMORY = (
    "the machine or the container probably had no memory left: lower stream.memory_gb, "
    "stream.decoded_mb, stream.threads or batch_size, or ask the platform for more; then "
)


class Verdict(NamedTuple):
    """The result of a node's processes; `kind` is empty where the job is done.

    `shown` is True where the only rank has printed its failure itself.
    """

    exit_code: int
    kind: str = ""
    message: str = ""
    traceback_text: str = ""
    shown: bool = False


def verdict_of(
    code: int,
    statuses: Sequence[RankStatus],
    first: tuple[int, int] | None,
    asked: bool,
    late: bool = True,
) -> Verdict:
    """The verdict from the exit code of the supervisor's child, the ranks' statuses, earliest
    first, and the launcher's `first` failure (rank, exit code), if it started several.

    The first failure that is no interruption; 75 where all that ended were interrupted or a stop
    was asked for; 128 + signal where a rank died without a message. After a stop that is not
    `late` nothing is lost by ranks that had not begun: they end before they report anything.
    """
    if code == 0:
        return Verdict(0)
    ended = [status for status in statuses if status.exit_code is not None]
    failed = next((s for s in ended if s.exit_code not in (0, Interrupted.exit_code)), None)
    if failed is not None:
        return _of_rank(failed)
    if len(ended) == max((status.local_ranks for status in statuses), default=1):
        return Verdict(max(status.exit_code or 0 for status in ended))
    begun = len(ended) < len(statuses)
    if asked and not late and (code == Interrupted.exit_code or (code in _EARLY and not begun)):
        return Verdict(Interrupted.exit_code)
    if asked:
        return _interrupted(_after_a_stop(code))
    return _of_silent(code, statuses, first, {status.rank for status in ended})


def _after_a_stop(code: int) -> str:
    """Why not all ranks reported their end after a stop, from the exit code of the child."""
    if code < 0 and code != -signal.SIGKILL:
        return f"a rank was ended by {signal.Signals(-code).name} before it saved"
    return "not every rank ended within the grace"


def _of_rank(status: RankStatus) -> Verdict:
    alone = status.local_ranks == 1 and status.rank == 0
    message = status.message if alone else f"rank {status.rank}: {status.message}"
    kind = status.kind or "Failed"
    return Verdict(status.exit_code or 1, kind, message, status.traceback_text, shown=alone)


def _of_silent(
    code: int, statuses: Sequence[RankStatus], first: tuple[int, int] | None, ended: set[int]
) -> Verdict:
    """Of ranks of which none reported a failure."""
    only = statuses[0].rank if len(statuses) == 1 and statuses[0].local_ranks == 1 else None
    rank, code = (only, code) if first is None else first
    name = "the process of the ranks" if rank is None else f"rank {rank}"
    if code < 0 and rank not in ended:
        number = signal.Signals(-code)
        fix = f"{MEMORY if number == signal.SIGKILL else ''}{RESUME}"
        return Verdict(128 - code, "Killed", f"{name} died of {number.name}. Fix: {fix}.")
    if code == Interrupted.exit_code and not statuses:  # the launcher has said it
        return _interrupted("the nodes did not meet")._replace(shown=True)
    if ended:  # with 0 or 75
        return _interrupted("another rank or node is gone")
    problem = f"{name} ended with exit code {code} and reported no reason"
    if code in OURS:
        return Verdict(code, "Failed", f"{problem}, as on a full disk. Fix: see the log above.")
    return Verdict(1, "Bug", problem)


def _interrupted(problem: str) -> Verdict:
    return Verdict(Interrupted.exit_code, "Interrupted", f"{problem}. Fix: {RESUME}.")


def write_failure(path: Path | None, kind: str, message: str, traceback_text: str = "") -> None:
    """Put a failure where the platform shows it, if it does; its last bytes matter most. SageMaker
    shows none that is no UTF-8, so no character is cut."""
    if path is None:
        return
    head = f"{kind}: {message}\n".encode()[:FAILURE_BYTES]
    room = FAILURE_BYTES - len(head)
    tail = traceback_text.encode()[-room:] if room else b""
    with suppress(OSError):
        path.write_text((head + tail).decode(errors="ignore"), encoding="utf-8")
