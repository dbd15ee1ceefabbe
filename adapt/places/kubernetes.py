"""Kubernetes: Kubeflow's TrainJob and PyTorchJob, Volcano, Indexed Jobs, plain pods.

Nodes are pods. RANK and WORLD_SIZE, which PyTorchJob and Volcano set, count pods and are no ranks.
A pod does not know how long it has between SIGTERM and its end: our manifests set
SEGADAPT_GRACE_S beside terminationGracePeriodSeconds.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from adapt.errors import JobError
from adapt.places.place import Place, needed_number, number, number_of_nodes, scratch_below

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
    nodes = _torchrun_nodes(environment)
    if "PET_NODE_RANK" not in environment:
        nodes["node"] = needed_number(environment, "RANK")
    if nodes["master_addr"] is None:
        nodes["master_addr"] = environment["MASTER_ADDR"]
    nodes["interrupted_code"] = RETRIED_CODE
    return _pod("pytorchjob", environment, root, **nodes)


def volcano(environment: Mapping[str, str], root: Path) -> Place | None:
    """A Volcano job with one task named `worker`, plugins `env` and `svc`, as on ModelArts."""
    if "VC_TASK_INDEX" not in environment:
        return None
    if not environment.get("VC_WORKER_HOSTS"):
        raise JobError(
            "VC_WORKER_HOSTS: expected the pods of a task named `worker`, got nothing",
            fix="give the Volcano job one task of that name and the plugins env and svc",
        )
    return _pod(
        "volcano",
        environment,
        root,
        num_nodes=needed_number(environment, "VC_WORKER_NUM"),
        node=needed_number(environment, "VC_TASK_INDEX"),
        master_addr=environment["VC_WORKER_HOSTS"].split(",")[0].strip(),
    )


def indexed_job(environment: Mapping[str, str], root: Path) -> Place | None:
    """A pod of an Indexed Job; our manifest adds PET_NNODES and PET_MASTER_ADDR."""
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    nodes = _torchrun_nodes(environment) | {
        "node": needed_number(environment, "JOB_COMPLETION_INDEX")
    }
    return _pod("indexed_job", environment, root, **nodes)


def pod(environment: Mapping[str, str], root: Path) -> Place | None:
    """Any other pod."""
    if HOST not in environment:
        return None
    return _pod("pod", environment, root, **_torchrun_nodes(environment))


def _torchrun_nodes(environment: Mapping[str, str]) -> dict[str, object]:
    return {
        "num_nodes": number_of_nodes(environment) or 1,
        "node": number(environment, "PET_NODE_RANK") or 0,
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
