"""A process of a SkyPilot task: SkyPilot starts its `run` commands once a node, which starts the
node's ranks; nodes meet at the first address of SKYPILOT_NODE_IPS.

SkyPilot's clusters may be pods or Slurm jobs, so its row is before theirs. PET_... variables, set
by hand, come first.
"""

from collections.abc import Mapping
from pathlib import Path

from adapt.places.place import (
    Place,
    is_launched,
    needed_number,
    number,
    number_of_nodes,
    refuse_other_launchers,
    scratch_below,
)

RANK, NODES, IPS = "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_IPS"
GPUS, TASK = "SKYPILOT_NUM_GPUS_PER_NODE", "SKYPILOT_TASK_ID"


def sky(environment: Mapping[str, str], root: Path) -> Place | None:
    """A place where SKYPILOT_NODE_RANK is set. Raises `JobError` where another launcher than
    torchrun started several processes, each of which would train alone."""
    if RANK not in environment:
        return None
    launched = is_launched(environment)
    if not launched:
        refuse_other_launchers(environment)
    nodes = 1 if launched else number_of_nodes(environment) or needed_number(environment, NODES)
    first = environment.get(IPS, "").strip().partition("\n")[0].strip()
    return Place(
        "sky",
        environment,
        scratch_below(root),
        num_nodes=nodes,
        node=_node(environment) if nodes > 1 else 0,
        processes=number(environment, "PET_NPROC_PER_NODE") or number(environment, GPUS) or None,
        master_addr=environment.get("PET_MASTER_ADDR") or first or None,
        master_port=number(environment, "PET_MASTER_PORT") or Place.master_port,
        job=environment.get(TASK) or None,
    )


def _node(environment: Mapping[str, str]) -> int:
    by_hand = bool(environment.get("PET_NODE_RANK"))
    return needed_number(environment, "PET_NODE_RANK" if by_hand else RANK)
