"""Kubernetes: Kubeflow's TrainJob and PyTorchJob, Volcano, Indexed Jobs (a JobSet's too), pods.

Nodes are pods. RANK and WORLD_SIZE, which PyTorchJob and Volcano set, count pods and are no ranks.
A pod does not know how long it has between SIGTERM and its end: our manifests set
SEGADAPT_GRACE_S beside terminationGracePeriodSeconds.
"""

import os
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
    number_of_this_node,
    refuse_other_launchers,
    scratch_below,
)

HOST = "KUBERNETES_SERVICE_HOST"
"""Set in every pod."""

RETRIED_CODE = 143
"""PyTorchJob starts a pod again on exit codes from 128 on alone."""


def trainjob(environment: Mapping[str, str], root: Path) -> Place | None:
    """Kubeflow Trainer v2: torchrun's own variables, without ranks."""
    if (
        not {HOST, "PET_NODE_RANK", "PET_MASTER_ADDR"} <= environment.keys()
        or "RANK" in environment
    ):
        return None
    return _pod("trainjob", environment, root, **_torchrun_nodes(environment))


def pytorchjob(environment: Mapping[str, str], root: Path) -> Place | None:
    """Kubeflow's training operator v1; without a Master replica RANK alone numbers the pods."""
    if not {HOST, "PET_NNODES", "MASTER_ADDR", "RANK"} <= environment.keys():
        return None
    numbered = "PET_NODE_RANK" if "PET_NODE_RANK" in environment else "RANK"
    nodes = _torchrun_nodes(environment, numbered)
    if nodes["master_addr"] is None:
        nodes["master_addr"] = environment["MASTER_ADDR"]
    nodes["interrupted_code"] = RETRIED_CODE
    return _pod("pytorchjob", environment, root, **nodes)


def volcano(environment: Mapping[str, str], root: Path) -> Place | None:
    """A Volcano job: one task named `worker` with the plugins `env` and `svc`, as on ModelArts, or
    a master and workers with the plugin `pytorch`.

    Raises `JobError` where each pod would take itself for the first one, and train alone.
    """
    tasks = {name[3:-6]: hosts for name, hosts in environment.items() if _TASK.fullmatch(name)}
    if not tasks and "VC_TASK_INDEX" not in environment:
        return None
    if is_launched(environment):  # these variables are torchrun's now
        return _pod("volcano", environment, root)
    plugin = {"MASTER_ADDR", "WORLD_SIZE"} <= environment.keys()
    facts = _of_pytorch_plugin(environment, tasks) if plugin else _of_workers(environment, tasks)
    return _pod("volcano", environment, root, **facts)


_TASK = re.compile(r"VC_[A-Z0-9_]+_HOSTS")
"""The plugin `svc` lists the pods of each task so."""

_ONE_TASK = (
    "give the Volcano job one task named `worker` and the plugins env and svc, or tasks for a "
    "master and workers and the plugin pytorch"
)


def _of_workers(environment: Mapping[str, str], tasks: Mapping[str, str]) -> dict[str, object]:
    """VC_TASK_INDEX numbers the pods of one task: each task has a pod 0."""
    if not tasks.get("WORKER"):
        raise JobError(
            "VC_WORKER_HOSTS: expected the pods of a task named `worker`, got nothing",
            fix=_ONE_TASK,
        )
    if len(tasks) > 1:
        names = ", ".join(sorted(name.lower() for name in tasks))
        raise JobError(f"tasks: expected one task, got {names}", fix=_ONE_TASK)
    if "VC_TASK_INDEX" not in environment:
        raise JobError(
            "VC_TASK_INDEX: expected the number of this pod, got nothing",
            fix="add the plugin env to the Volcano job",
        )
    return {
        "num_nodes": needed_number(environment, "VC_WORKER_NUM"),
        "node": needed_number(environment, "VC_TASK_INDEX"),
        "master_addr": tasks["WORKER"].split(",")[0].strip(),
    }


def _of_pytorch_plugin(
    environment: Mapping[str, str], tasks: Mapping[str, str]
) -> dict[str, object]:
    """RANK and WORLD_SIZE number the pods of the master and the workers, whatever the names of
    these tasks; a pod of a third task has no RANK."""
    if not environment.get("RANK"):
        raise JobError(
            "RANK: expected a pod of the plugin pytorch's master or workers, got one of "
            "another task",
            fix="name this task in the arguments of the plugin, --master=... or --worker=...",
        )
    first = environment["MASTER_ADDR"]
    masters = next((hosts for hosts in tasks.values() if first in _names(hosts)), first)
    if len(_names(masters)) > 1:
        raise JobError(
            f"tasks: expected one master, as all masters have RANK 0, got {masters}",
            fix="set replicas: 1 of that task",
        )
    return {
        "num_nodes": needed_number(environment, "WORLD_SIZE"),
        "node": needed_number(environment, "RANK"),
        "master_addr": first,
        "master_port": number(environment, "MASTER_PORT") or Place.master_port,
    }


def _names(hosts: str) -> list[str]:
    return [host.strip() for host in hosts.split(",")]


def indexed_job(environment: Mapping[str, str], root: Path) -> Place | None:
    """A pod of an Indexed Job; our manifest adds PET_NNODES and PET_MASTER_ADDR, without which the
    pod is a job of its own."""
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    several = bool(environment.get("PET_NNODES"))
    numbered = "JOB_COMPLETION_INDEX" if several else "PET_NODE_RANK"
    return _pod("indexed_job", environment, root, **_torchrun_nodes(environment, numbered))


def pod(environment: Mapping[str, str], root: Path) -> Place | None:
    """Any other pod."""
    if HOST not in environment:
        return None
    refuse_other_launchers(environment)
    return _pod("pod", environment, root, **_torchrun_nodes(environment))


def _torchrun_nodes(
    environment: Mapping[str, str], numbered: str = "PET_NODE_RANK"
) -> dict[str, object]:
    """PET_NNODES, and this node's number from the variable `numbered`."""
    return {
        "num_nodes": number_of_nodes(environment) or 1,
        "node": number_of_this_node(environment, numbered),
        "processes": number(environment, "PET_NPROC_PER_NODE"),
        "master_addr": environment.get("PET_MASTER_ADDR") or None,
        "master_port": number(environment, "PET_MASTER_PORT") or Place.master_port,
    }


def termination_log(root: Path) -> Path | None:
    """The file that Kubernetes shows of a container that failed."""
    path = root / "dev/termination-log"
    return path if os.access(path, os.W_OK) else None


def _pod(platform: str, environment: Mapping[str, str], root: Path, **facts: object) -> Place:
    return Place(
        platform,
        environment,
        scratch_below(root),
        failure_file=termination_log(root),
        **facts,  # type: ignore[arg-type]
    )
