"""The `run` commands of a task, which SkyPilot starts in bash once on each node.

SkyPilot starts a job that ended with 75 again without a limit (`recover_on_exit_codes`), so the
script counts the hours from `submit`: at their end the job gets SIGTERM, and 124 in place of 75 is
final. Sources: SkyPilot 0.14.1, coreutils' `timeout`.
"""

import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from adapt.errors import Interrupted
from adapt.platforms.reachable import IMAGE

OVER = 124
"""The exit code of `timeout` once the time is over."""
PID_FILE = "/tmp/segadapt.pid"
PROGRAM = ("/opt/venv/bin/python", f"{IMAGE}/entrypoint.py")
"""The image's entrypoint without its PATH, before which SkyPilot puts a Python of its own."""

OTHERS_S = 30
"""For which a node that ended with 75 waits: SkyPilot takes the first exit code of several nodes,
and starts a job again for 75 beside another's mistake."""

_RUN = """\
left=$(({until} - $(date +%s)))  # max_hours, from submit on
if [ "$left" -le 0 ]; then
    echo "segadapt: max_hours are over; submit it again to resume"
    exit {over}
fi
asked= stopped= ranks=
trap 'asked=1 stopped=1; [ -z "$ranks" ] || kill -TERM "$ranks"' TERM
timeout --foreground "$left" {program} &
ranks=$!
echo "$ranks" > {pid_file}
[ -z "$asked" ] || kill -TERM "$ranks"
while wait "$ranks"; code=$?; [ -n "$asked" ]; do asked=; done
rm -f {pid_file}
"""

_OTHERS = """\
if [ "$code" = {again} ] && [ -z "$stopped" ]; then sleep {others_s}; fi  # others' codes first
"""

HOOK = f"""\
ranks=$(cat {PID_FILE} 2>/dev/null) && kill -TERM "$ranks" 2>/dev/null || exit 0
while kill -0 "$ranks" 2>/dev/null; do sleep 1; done
"""
"""Before SkyPilot takes the machines down: has the job save, and waits for it."""


def run_script(name: str, max_hours: float, nodes: int, arguments: Sequence[str]) -> str:
    """The script of a job whose `name` has the time of its submission."""
    program = shlex.join([*PROGRAM, *arguments])
    until = int((submitted(name) + timedelta(hours=max_hours)).timestamp())
    parts = [_RUN.format(until=until, over=OVER, program=program, pid_file=PID_FILE)]
    if nodes > 1:
        parts.append(_OTHERS.format(again=Interrupted.exit_code, others_s=OTHERS_S))
    return "".join([*parts, 'exit "$code"\n'])


_TIME = re.compile(r"-(\d{6}-\d{6})(?:-r\d+)?(?:-\d+)?")


def submitted(name: str) -> datetime:
    """The time in the name of a job, as `submit` makes it."""
    found = _TIME.search(name)
    assert found is not None, name
    return datetime.strptime(found[1], "%y%m%d-%H%M%S").replace(tzinfo=UTC)


def is_ours(name: str) -> bool:
    """Return whether it is the name of a job that `submit` or `predict` made."""
    return re.fullmatch(f"[a-z][a-z0-9-]*{_TIME.pattern}", name) is not None
