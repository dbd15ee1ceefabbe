"""Huawei ModelArts, training jobs of the second version; it runs on Volcano.

Inputs and outputs whose `access_method` is `env` are variables named exactly like their channel.
A restarted job has the same MA_VJ_NAME; MA_SCHEDULE_CNT and MA_PROC_START_CNT count its starts.
How a job is told to stop, and how long it then has, is nowhere documented.
"""

from collections.abc import Mapping
from pathlib import Path

from adapt.errors import JobError
from adapt.places.place import (
    CHANNELS,
    FILE_CHANNELS,
    Place,
    channel_override,
    number,
    scratch_below,
)

MARKS = ("MA_JOB_DIR", "MA_VJ_NAME", "MA_MOUNT_PATH")


def modelarts(environment: Mapping[str, str], root: Path) -> Place | None:
    """A place where one of ModelArts' own variables is set.

    Raises `JobError` where it contradicts itself, or the channel `spec` holds no single spec.
    """
    if not any(environment.get(mark) for mark in MARKS):
        return None
    hosts = [host.strip() for host in environment.get("VC_WORKER_HOSTS", "").split(",")]
    num_nodes, node = _position(environment, hosts)
    model = environment.get("model")
    return Place(
        "modelarts",
        environment,
        scratch_below(root),
        num_nodes=num_nodes,
        node=node,
        processes=number(environment, "MA_NUM_GPUS") or None,  # 0 where it is not filled in
        master_addr=hosts[0] or None,
        master_port=number(environment, "PET_MASTER_PORT") or Place.master_port,
        job=_job(environment),
        spec=_only_spec(environment.get("spec")),
        overrides=tuple(
            channel_override(name, environment[name])
            for name in (*CHANNELS, *FILE_CHANNELS)
            if environment.get(name)
        ),
        model_dir=Path(model) if model else None,
    )


def _position(environment: Mapping[str, str], hosts: list[str]) -> tuple[int, int]:
    nodes = number(environment, "MA_NUM_HOSTS") or number(environment, "VC_WORKER_NUM") or 1
    node = number(environment, "VC_TASK_INDEX") or 0
    if node >= nodes or (nodes > 1 and nodes != len(hosts)):
        raise JobError(
            f"VC_TASK_INDEX, VC_WORKER_HOSTS: expected a node below {nodes} and {nodes} hosts, as "
            f"MA_NUM_HOSTS says, got {node} and {len(hosts)}"
        )
    return nodes, node


def _job(environment: Mapping[str, str]) -> str | None:
    """The job's name on Volcano, which all nodes and all starts share."""
    name = environment.get("MA_VJ_NAME")
    node = environment.get("MA_CURRENT_INSTANCE_NAME", "").rpartition("-worker-")[0]
    return name or node or None


def _only_spec(folder: str | None) -> str | None:
    """The job spec in the folder that ModelArts downloaded for the channel `spec`."""
    if not folder:
        return None
    files = sorted([*Path(folder).glob("*.yaml"), *Path(folder).glob("*.yml")])
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise JobError(f"{folder}: expected one job spec in the channel spec, got {found}")
    return str(files[0])
