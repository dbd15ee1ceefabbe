"""`Place`: the facts that a platform gives to a process.

Rows of `adapt.places.PLACES` build it from the environment and the platform's files; nothing else
in `adapt` reads either.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapt.errors import Interrupted, JobError
from adapt.places.trainer_server import TrainerServer, trainer_server

STATUS_VARIABLE = "SEGADAPT_STATUS_DIR"
PLATFORM_VARIABLE = "SEGADAPT_PLATFORM"
SHARE_CORES_VARIABLE = "SEGADAPT_SHARE_CORES"
"""Set where the user set no OMP_NUM_THREADS: several ranks then share the cores evenly."""
BY_HAND_FILE, BY_HAND_S = "by-hand", 3600.0
"""The supervisor's note in the status folder that a stop was Ctrl-C, and the time it leaves."""
NODES_WAIT_S = 1200.0
"""The default of `train.stall_minutes`: as long as a rank may make no progress."""
CHANNELS = {
    "source": "source.uri",
    "target": "target.uri",
    "validation": "validation.uri",
    "checkpoints": "checkpoint.uri",
}
"""Inputs and outputs that a platform mounts or names, and the key of the job spec each replaces."""
FILE_CHANNELS = {"weights": "model.weights_uri"}
"""Inputs whose folder holds one file, which the key names."""


@dataclass(frozen=True)
class Place:
    """The facts that the platform gave to this process.

    `node/num_nodes` and `rank/num_ranks` are positions; `local_rank/local_ranks` numbers the
    processes of a node, and so the GPUs. `scratch_dir` is the node's disk for caches. `grace_s` is
    the time between SIGTERM and SIGKILL. `processes` is the number of ranks that the platform asks
    for on this node; `master_addr:master_port` is where the nodes meet. `failure_file` is shown by
    the platform where a job failed. `job` is the platform's own name of the job, the same after its
    restarts.
    `nodes_wait_s` is how long nodes wait for one another at the start.
    `spec` says where the job spec is (a path, a URI, `env:VARIABLE`), `overrides` the keys that the
    platform sets (`KEY=VALUE`). The platform keeps the files that lie in `model_dir` at the end.
    `checkpoints_at` is the URI at which others find the job's `checkpoint.uri`, if that is a folder
    which the platform carries elsewhere. `interrupted_code` is the exit code on which the
    platform starts the job again.
    """

    platform: str
    environment: Mapping[str, str] = field(repr=False)  # it holds keys
    scratch_dir: Path
    grace_s: float = 30.0
    node: int = 0
    num_nodes: int = 1
    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    processes: int | None = None
    master_addr: str | None = None
    master_port: int = 29500
    nodes_wait_s: float = NODES_WAIT_S
    failure_file: Path | None = None
    job: str | None = None
    spec: str | None = None
    overrides: tuple[str, ...] = ()
    model_dir: Path | None = None
    checkpoints_at: str | None = None
    interrupted_code: int = Interrupted.exit_code

    @property
    def leader(self) -> bool:
        """True for the process that writes what a job writes once."""
        return self.rank == 0

    @property
    def shards_dir(self) -> Path:
        """Where the node's shard cache lies."""
        return self.scratch_dir / "shards"

    @property
    def launched(self) -> bool:
        """True where torch's launcher started this process, as one of several ranks."""
        return is_launched(self.environment)

    @property
    def supervised(self) -> bool:
        """True where a parent reports this process's failure: the supervisor, or torch's
        launcher."""
        return is_supervised(self.environment)

    @property
    def status_dir(self) -> Path | None:
        """Where the supervisor's child and its ranks report how they end; None without one."""
        folder = self.environment.get(STATUS_VARIABLE)
        return Path(folder) if folder else None

    @property
    def stop_s(self) -> float:
        """The time that a stop leaves: the grace, or after Ctrl-C, which no SIGKILL follows, an
        hour."""
        folder = self.status_dir
        by_hand = folder is not None and (folder / BY_HAND_FILE).exists()
        return BY_HAND_S if by_hand else self.grace_s

    @property
    def tracking_uri(self) -> str | None:
        """The MLflow server that the platform's environment names, if any."""
        return self.environment.get("MLFLOW_TRACKING_URI") or None

    @property
    def trainer_server(self) -> TrainerServer | None:
        """Kubeflow's server for the progress of a TrainJob, if this is one with it."""
        return trainer_server(self.environment)


def is_launched(environment: Mapping[str, str]) -> bool:
    """True where torch's launcher started the process of this environment."""
    return "TORCHELASTIC_RUN_ID" in environment


def is_supervised(environment: Mapping[str, str]) -> bool:
    """True where the supervisor or torch's launcher started the process of this environment."""
    return is_launched(environment) or bool(environment.get(STATUS_VARIABLE))


def refuse_other_launchers(environment: Mapping[str, str]) -> None:
    """Raise `JobError` where RANK and WORLD_SIZE come from neither torchrun nor a platform that we
    know: their meaning is open, and each process would train alone into the same run."""
    size = number(environment, "WORLD_SIZE") or 1
    named = {"RANK", "MASTER_ADDR"} <= environment.keys()
    if size > 1 and named and "PET_NNODES" not in environment and not is_launched(environment):
        raise JobError(
            f"WORLD_SIZE: expected torchrun's own, or none, got {size} of another launcher, below "
            "which each process would train alone",
            fix="start one `run` a node, with PET_NNODES, PET_NODE_RANK and PET_MASTER_ADDR, and "
            "unset RANK",
        )


def channel_override(name: str, folder: str) -> str:
    """Return the override of the job spec, `KEY=VALUE`, that a channel or another key means.

    Raises `JobError` where the folder of one file holds none or several.
    """
    if name not in FILE_CHANNELS:
        return f"{CHANNELS.get(name, name)}={folder}"
    found = sorted(one for one in Path(folder).glob("*") if one.is_file())
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise JobError(
            f"channel {name}: expected one file in {folder}, got {names}",
            fix="give the channel a folder with that file alone",
        )
    return f"{FILE_CHANNELS[name]}={found[0]}"


def scratch_below(root: Path) -> Path:
    """`/cache`, where a platform mounts a large disk there, else the system's temporary folder."""
    cache = root / "cache"
    if cache.is_dir() and os.access(cache, os.W_OK):
        return cache / "segadapt"
    return Path(tempfile.gettempdir()) / "segadapt"


def number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable as a number; None where it is absent, or a word as in `auto`."""
    text = environment.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def needed_number(environment: Mapping[str, str], name: str) -> int:
    """A variable as a number. Raises `JobError` where it is not one."""
    found = number(environment, name)
    if found is None:
        raise JobError(
            f"{name}: expected a whole number, got {environment.get(name)!r}",
            fix="write digits alone, or unset the variable",
        )
    return found


def number_of_nodes(environment: Mapping[str, str]) -> int | None:
    """`PET_NNODES`, which may be a range of one; None where it is absent. Raises `JobError` for
    another range, and for what is no number: each node would train alone."""
    text = environment.get("PET_NNODES", "").strip()
    if not text:
        return None
    least, _, most = text.partition(":")
    if most and least != most:
        raise JobError(
            f"PET_NNODES: expected a number of nodes, got the range {least}:{most}, with which "
            "each node would train alone",
            fix="ask the platform for a fixed number of nodes",
        )
    found = number({"PET_NNODES": least}, "PET_NNODES")
    if not found:
        raise JobError(
            f"PET_NNODES: expected a number of nodes, got {text!r}",
            fix="write digits alone, 1 or more, or unset the variable",
        )
    return found


def number_of_this_node(environment: Mapping[str, str], variable: str = "PET_NODE_RANK") -> int:
    """This node's number from `variable`; 0 where PET_NNODES states no other node, or torch's
    launcher numbers them. Raises `JobError` where there is none: each node would be the first."""
    alone = (number_of_nodes(environment) or 1) == 1
    if is_launched(environment) or (alone and not environment.get(variable)):
        return 0
    return needed_number(environment, variable)
