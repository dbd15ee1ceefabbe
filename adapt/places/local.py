"""A laptop, a workstation, a cluster of machines whose torchrun variables (PET_...) are set by
hand: what is left when no platform knows itself."""

from collections.abc import Mapping
from pathlib import Path

from adapt.places.place import (
    Place,
    number,
    number_of_nodes,
    number_of_this_node,
    refuse_other_launchers,
    scratch_below,
)


def local(environment: Mapping[str, str], root: Path) -> Place | None:
    """Always a place. Raises `JobError` below a launcher other than torchrun."""
    refuse_other_launchers(environment)
    return Place(
        "local",
        environment,
        scratch_below(root),
        num_nodes=number_of_nodes(environment) or 1,
        node=number_of_this_node(environment),
        processes=number(environment, "PET_NPROC_PER_NODE"),
        master_addr=environment.get("PET_MASTER_ADDR") or None,
        master_port=number(environment, "PET_MASTER_PORT") or Place.master_port,
    )
