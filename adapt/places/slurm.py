"""A process of a Slurm job: below srun one a node, which starts the node's ranks; in the batch
shell, and in a shell of salloc, alone.

Nodes meet at the first host of the step, at a port that comes from the job's number, since jobs
share nodes. PET_... variables, set by hand, come first.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from adapt.errors import JobError
from adapt.places.place import (
    Place,
    is_launched,
    needed_number,
    number,
    number_of_nodes,
    refuse_other_launchers,
    scratch_below,
)

FIRST_PORT, PORTS = 15_000, 15_000
"""Below Linux's own range for outgoing connections."""


def slurm(environment: Mapping[str, str], root: Path) -> Place | None:
    """A place where SLURM_JOB_ID is set. Raises `JobError` where srun started several processes a
    node, each of which would train alone."""
    if "SLURM_JOB_ID" not in environment:
        return None
    if not is_launched(environment):
        refuse_other_launchers(environment)
    own = environment.get("SLURM_TMPDIR")
    nodes, first = _nodes(environment)
    nodes = number_of_nodes(environment) or nodes
    return Place(
        "slurm",
        environment,
        Path(own) / "segadapt" if own else scratch_below(root),
        num_nodes=nodes,
        node=_node(environment) if nodes > 1 and not is_launched(environment) else 0,
        processes=_first_number(environment, "PET_NPROC_PER_NODE", "SLURM_GPUS_ON_NODE"),
        master_addr=environment.get("PET_MASTER_ADDR") or first,
        master_port=number(environment, "PET_MASTER_PORT") or _port(environment),
        job=environment["SLURM_JOB_ID"],
    )


def _node(environment: Mapping[str, str]) -> int:
    """This node's number in the step. Raises `JobError` where there is none: each would be the
    first."""
    by_hand = bool(environment.get("PET_NODE_RANK"))
    return needed_number(environment, "PET_NODE_RANK" if by_hand else "SLURM_NODEID")


def _nodes(environment: Mapping[str, str]) -> tuple[int, str | None]:
    """The nodes of the step that srun started, and the first one's name; 1 outside of a step."""
    if "SLURM_STEP_NUM_NODES" not in environment or is_launched(environment):
        return 1, None
    nodes = needed_number(environment, "SLURM_STEP_NUM_NODES")
    tasks = needed_number(environment, "SLURM_STEP_NUM_TASKS")
    if tasks > nodes:
        raise JobError(
            f"SLURM_STEP_NUM_TASKS: expected {nodes}, one process a node, which starts a rank for "
            f"each GPU, got {tasks}",
            fix="run srun with --ntasks-per-node=1, and --gpus-per-node for the ranks",
        )
    return nodes, first_host(environment.get("SLURM_STEP_NODELIST", ""))


def first_host(hosts: str) -> str | None:
    """The first name of Slurm's list of hosts, as node[07-09,12],other or rack[1-2]n[1-4]."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0]) if first else None


def _port(environment: Mapping[str, str]) -> int:
    return FIRST_PORT + (number(environment, "SLURM_JOB_ID") or 0) % PORTS


def _first_number(environment: Mapping[str, str], *names: str) -> int | None:
    return next((found for name in names if (found := number(environment, name)) is not None), None)
