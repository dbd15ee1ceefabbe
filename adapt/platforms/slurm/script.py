"""The batch script of a job: pure, from a profile, variables and the program's arguments.

On one node the job is a child of the batch shell; on several, and in pyxis, srun starts one process
a node, which starts the node's ranks. Slurm's own facts of nodes are read inside
(`adapt.places.slurm`).

The shell gets SIGTERM before the time limit (`--signal=B:`) and from `stop`, and passes it on. To
srun it must not: srun ends its tasks by SIGKILL when it gets SIGTERM itself; scancel without
--batch signals the tasks. A job that ended with 75 queues itself again, unless `stop` has set
Requeue=0 or it was cancelled, which `scontrol requeue Incomplete` respects.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from adapt.errors import Interrupted
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.platforms.slurm.runtimes import RUNTIMES

MARK = "segadapt"
"""The comment of our jobs."""

_STOP = """\
ends={folder}/$SLURM_JOB_ID
rm -f "$ends".end "$ends".node*
asked= ranks=
stop() {{ asked=1; [ -z "$ranks" ] || {signal}; }}
trap stop TERM
"""

_WAIT = """\
ranks=$!
[ -z "$asked" ] || stop
while wait "$ranks"; code=$?; [ -n "$asked" ]; do asked=; done
"""

_NODES = """\
for file in "$ends".node*; do  # 0 and 75 of others do not hide a node's failure
    one=$(cat "$file" 2>/dev/null)
    case $one in ''|0|{again}) ;; *) code=$one; break ;; esac
done
"""

_END = """\
echo "$code" > "$ends".end
if [ "$code" = {again} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ] \\
    && scontrol requeue Incomplete "$SLURM_JOB_ID" 2>/dev/null; then
    echo "{mark}: queued again, restart $((${{SLURM_RESTART_COUNT:-0}} + 1)) of {restarts}"
fi
exit "$code"
"""

_NODE = 'trap : TERM; "$@"; code=$?; echo $code > "$0.node$SLURM_NODEID"; exit $code'
"""On each node, below srun: $0 is the start of the files' names, "$@" the program."""


def batch_script(
    name: str, profile: SlurmProfile, variables: Mapping[str, str], arguments: Sequence[str]
) -> str:
    """The script that sbatch gets, with the options of the profile."""
    by_srun = profile.nodes > 1 or profile.runtime == "pyxis"
    signal = 'scancel --signal=TERM "$SLURM_JOB_ID"' if by_srun else 'kill -TERM "$ranks"'
    again = Interrupted.exit_code
    parts = [
        "#!/bin/bash\n",
        *(f"#SBATCH {option}\n" for option in _options(name, profile)),
        *(f"{line}\n" for line in profile.setup),
        *(f"export {one}={shlex.quote(value)}\n" for one, value in variables.items()),
        _STOP.format(folder=profile.folder, signal=signal),
        f"{_launch(profile, by_srun)}{shlex.join(arguments)} &\n",
        _WAIT,
        *([_NODES.format(again=again)] if by_srun else []),
        _END.format(again=again, restarts=profile.restarts, mark=MARK),
    ]
    return "".join(parts)


def _launch(profile: SlurmProfile, by_srun: bool) -> str:
    runtime = RUNTIMES[profile.runtime]
    program = f"{shlex.join(runtime.program(profile))} "
    if not by_srun:
        return program
    cpus = [f"--cpus-per-task={profile.cpus}"] if profile.cpus else []
    words = ["srun", "--wait=0", "--ntasks-per-node=1", *cpus, *runtime.srun(profile)]
    return f'{shlex.join(words)} \\\n    sh -c {shlex.quote(_NODE)} "$ends" {program}'


def _options(name: str, profile: SlurmProfile) -> Iterator[str]:
    known: dict[str, object] = {
        "job-name": name,
        "comment": MARK,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "nodes": profile.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": profile.cpus,
        "mem": _mebibytes(profile.memory_gb),
        **_gpus(profile),
        "time": profile.minutes,
        "signal": f"B:TERM@{profile.grace_s}",
        "output": f"{profile.folder}/%j.log",
        "open-mode": "append",
        "export": "ALL",
    }
    yield from (f"--{key}={value}" for key, value in known.items() if value is not None)
    yield "--requeue"
    for key, more in profile.options.items():
        yield f"--{key}" if more is None else f"--{key}={more}"


def _gpus(profile: SlurmProfile) -> dict[str, str]:
    if not profile.gpus:
        return {}
    kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
    gpu = "gpu:" if profile.gpus_by == "gres" else ""
    return {profile.gpus_by: f"{gpu}{kind}{profile.gpus}"}


def _mebibytes(gb: float | None) -> str | None:
    return None if gb is None else f"{int(gb * 10**9 / 2**20)}M"
