"""Refusals of sbatch, as errors with their fix."""

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """The key of the profile, what was found, and the fix."""

    key: str
    found: str
    fix: str


_REFUSALS = (
    (
        "invalid partition",
        "partition",
        "the cluster has no such partition",
        "name one that `sinfo -s` shows",
    ),
    (
        "invalid account",
        "account",
        "the cluster has no such account, or you are not of it, or not in this partition",
        "name one that `sacctmgr show assoc user=$USER` shows",
    ),
    ("invalid qos", "qos", "you may not use this quality of service", "ask for it, or remove qos"),
    (
        "invalid generic resource",
        "gpus",
        "the cluster has no such GPUs",
        "take gpu_type from `sinfo -o '%P %G'`, or set gpus: 0",
    ),
    (
        "invalid feature",
        "options",
        "the cluster has no node with this constraint",
        "take one from `sinfo -o '%P %f'`",
    ),
    (
        "time limit is invalid",
        "max_hours",
        "longer than the partition or the quality of service allows",
        "lower it to what `sinfo -o '%P %l'` shows",
    ),
    (
        "memory (required|specification)",
        "memory_gb",
        "more than a node has",
        "lower it to what `sinfo -o '%P %m'` shows, in MiB",
    ),
    (
        "node count|more processors requested|cpu count",
        "nodes",
        "more nodes or CPUs than the partition gives a job",
        "lower nodes or cpus",
    ),
    (
        "node configuration is not available",
        "nodes",
        "no node of the partition has so many CPUs, so much memory and so many GPUs",
        "lower cpus, memory_gb or gpus to what `sinfo -N -o '%N %c %m %G'` shows",
    ),
    (
        "required partition not available|partition.*(inactive|drain|down)",
        "partition",
        "the partition is down",
        "wait, or take another of `sinfo -s`",
    ),
    (
        "violates accounting|qos policy",
        "account",
        "a limit of the account or of the quality of service",
        "ask for less, or see the limits: sacctmgr show assoc, sacctmgr show qos",
    ),
    (
        "unrecognized option|unknown option",
        "options",
        "sbatch has no such option",
        "remove it; `sbatch --help` lists them",
    ),
    ("permission denied", "folder", "it cannot be written", "make a folder there that is yours"),
)


def refusal_of(said: str) -> Refusal:
    """The meaning of sbatch's messages."""
    lines = [line for line in said.splitlines() if "error" in line.lower()] or said.splitlines()
    shown = "; ".join(line.removeprefix("sbatch: error: ") for line in lines) or "no message"
    for pattern, key, found, fix in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return Refusal(key, f"{found} [{shown}]", fix)
    return Refusal("slurm", f"the cluster refused: {shown}", "change what it names")
