"""Several ranks on this node: torch's elastic launcher, in the supervisor's child.

It restarts nothing: the platform runs the same command again, and the job resumes from its
checkpoint. The rank that failed first is noted in the status folder; its exit code is the result
too, so that it is known where the disk is full.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from uuid import uuid4

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from adapt.errors import Interrupted
from adapt.launch.rank_status import write_first_failure
from adapt.launch.stop import shutdown_s
from adapt.places import SHARE_CORES_VARIABLE, Place


def run_elastic(place: Place, processes: int, command: Sequence[str], folder: Path) -> int:
    """Run Python with the arguments `command` in `processes` ranks on this node; 0, the failing
    rank's exit code, or 1 where it has none or this process was asked to stop.

    Raises `Interrupted` where the nodes do not meet within `place.nodes_wait_s`.
    """
    _prepare(processes)
    try:
        elastic_launch(launch_config(place, processes), sys.executable)("-u", *command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        write_first_failure(folder, rank, failure.exitcode)
        return max(1, failure.exitcode)
    except SignalException:
        return 1
    except (DistError, TimeoutError) as error:  # of the store at which nodes meet
        reason = str(error).splitlines()[0]
        raise Interrupted(
            f"nodes: expected all {place.num_nodes} within {place.nodes_wait_s:g} s, got fewer "
            f"[{reason}]. Fix: check that all run and reach {place.master_addr}:"
            f"{place.master_port}; SEGADAPT_NODES_WAIT_S waits longer."
        ) from error
    return 0


def launch_config(place: Place, processes: int) -> LaunchConfig:
    """The launcher's settings for this node, whose ranks may take nearly all of the place's grace
    to end."""
    several = place.num_nodes > 1
    known = {field.name for field in fields(LaunchConfig)}
    config = LaunchConfig(
        min_nodes=place.num_nodes,
        max_nodes=place.num_nodes,
        nproc_per_node=processes,
        run_id="segadapt" if several else str(uuid4()),
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=f"{place.master_addr}:{place.master_port}" if several else "localhost:0",
        rdzv_configs={"rank": place.node, "timeout": int(place.nodes_wait_s)} if several else {},
        max_restarts=0,
    )
    if "shutdown_timeout" in known:  # newer than the oldest torch we run on
        config.shutdown_timeout = shutdown_s(place.grace_s)
    return config


def _prepare(processes: int) -> None:
    """Set the environment that ranks inherit; leave signals and messages to the launcher."""
    for name in [name for name in os.environ if name.startswith("PET_")]:
        del os.environ[name]  # the node's, not a rank's
    if os.environ.pop(SHARE_CORES_VARIABLE, None):
        cores = len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // processes))
    # A handler in Python would wait for the other nodes as long as the launcher's C++ code does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    launcher = logging.getLogger("torch.distributed.elastic")
    launcher.addHandler(logging.NullHandler())  # the supervisor reports which rank failed, and why
    launcher.propagate = False
