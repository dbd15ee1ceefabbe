"""Huawei ModelArts, training jobs of the second version; it runs on Volcano.

Inputs and outputs whose `access_method` is `env` are variables named exactly like their channel.
How a job is told to stop, and how long it then has, is nowhere documented.
"""

from collections.abc import Mapping
from pathlib import Path

from adapt.places.place import CHANNELS, Place, number, scratch_below

MARKS = ("MA_JOB_DIR", "MA_VJ_NAME", "MA_MOUNT_PATH")


def modelarts(environment: Mapping[str, str], root: Path) -> Place | None:
    """A place where one of ModelArts' own variables is set."""
    if not any(environment.get(mark) for mark in MARKS):
        return None
    hosts = environment.get("VC_WORKER_HOSTS", "").split(",")
    model = environment.get("model")
    return Place(
        "modelarts",
        environment,
        scratch_below(root),
        num_nodes=number(environment, "MA_NUM_HOSTS") or number(environment, "VC_WORKER_NUM") or 1,
        node=number(environment, "VC_TASK_INDEX") or 0,
        processes=number(environment, "MA_NUM_GPUS") or None,  # 0 where it is not filled in
        master_addr=hosts[0].strip() or None,
        job=environment.get("MA_VJ_NAME") or None,
        overrides=tuple(
            f"{key}={environment[name]}" for name, key in CHANNELS.items() if environment.get(name)
        ),
        model_dir=Path(model) if model else None,
    )
