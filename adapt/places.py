"""Where this process runs: environment -> `Place`.

The only reader of the environment in `adapt`. A platform is a row of PLACES, a pure function
`environment -> Place | None`; the first that knows itself wins. Process ranks come from torchrun
alone (RANK, WORLD_SIZE beside TORCHELASTIC_RUN_ID), since several platforms set variables of the
same names that count pods. Nodes come from torchrun's PET_ variables, as many platforms set them.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from adapt.errors import JobError

STATUS_VARIABLE = "SEGADAPT_STATUS_DIR"


@dataclass(frozen=True)
class Place:
    """What the platform gave this process.

    `node/num_nodes` and `rank/num_ranks` are positions; `local_rank/local_ranks` numbers the
    processes of a node, and so the GPUs. `scratch_dir` is the node's disk for caches. `grace_s` is
    the time between SIGTERM and SIGKILL. `processes` is how many the platform wants on this node;
    `master_addr:master_port` is where the nodes meet. `failure_file` is what the platform shows of
    a job that failed.
    """

    platform: str
    environment: Mapping[str, str]
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
    failure_file: Path | None = None

    @property
    def leader(self) -> bool:
        """Whether this process writes what is written once a job."""
        return self.rank == 0

    @property
    def shards_dir(self) -> Path:
        """Where the node's shard cache lies."""
        return self.scratch_dir / "shards"

    @property
    def launched(self) -> bool:
        """Whether torchrun started this process."""
        return "TORCHELASTIC_RUN_ID" in self.environment

    @property
    def status_dir(self) -> Path | None:
        """Where a rank says how it ended, if `adapt.launch` started it."""
        return status_dir(self.environment) if self.launched else None

    @property
    def tracking_uri(self) -> str | None:
        """The MLflow server that the platform's environment names, if any."""
        return self.environment.get("MLFLOW_TRACKING_URI") or None


def local(environment: Mapping[str, str]) -> Place | None:
    """A laptop, a workstation, a plain container: what is left when no platform knows itself."""
    scratch = environment.get("SEGADAPT_SCRATCH_DIR")
    default = Path(tempfile.gettempdir()) / "segadapt"
    return Place("local", environment, Path(scratch) if scratch else default)


PLACES: dict[str, Callable[[Mapping[str, str]], Place | None]] = {"local": local}


def status_dir(environment: Mapping[str, str]) -> Path | None:
    """Where the processes of a node that `adapt.launch` started say how they end."""
    folder = environment.get(STATUS_VARIABLE)
    return Path(folder) if folder else None


def find_place(environment: Mapping[str, str], root: Path = Path("/")) -> Place:
    """The place of the first row that recognises `environment`, with torchrun's ranks where it
    started us, else with the nodes that it would read; `root` is where platforms put files."""
    for recognise in PLACES.values():
        place = recognise(environment)
        if place is not None:
            place = replace(place, failure_file=_failure_file(environment, root))
            started = "TORCHELASTIC_RUN_ID" in environment
            return (_with_ranks if started else _with_nodes)(place, environment)
    raise AssertionError("the last row recognises everything")


def _with_ranks(place: Place, environment: Mapping[str, str]) -> Place:
    return replace(
        place,
        rank=int(environment["RANK"]),
        num_ranks=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
        local_ranks=int(environment["LOCAL_WORLD_SIZE"]),
        node=int(environment["GROUP_RANK"]),
        num_nodes=int(environment["GROUP_WORLD_SIZE"]),
    )


def _with_nodes(place: Place, environment: Mapping[str, str]) -> Place:
    nodes = environment.get("PET_NNODES", "")
    if len(set(nodes.split(":"))) > 1:
        raise JobError(
            f"PET_NNODES: expected a number of nodes, found the range {nodes!r}: each node would "
            "train alone; ask the platform for a fixed number"
        )
    processes = _plain_number(environment, "PET_NPROC_PER_NODE")  # may be a word, as in `auto`
    num_nodes = _plain_number({"PET_NNODES": nodes.split(":")[0]}, "PET_NNODES")
    node = _plain_number(environment, "PET_NODE_RANK")
    port = _plain_number(environment, "PET_MASTER_PORT")
    if num_nodes is not None:
        place = replace(place, num_nodes=num_nodes, node=node or 0)
    return replace(
        place,
        processes=processes,
        master_addr=environment.get("PET_MASTER_ADDR") or None,
        master_port=place.master_port if port is None else port,
    )


def _plain_number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _failure_file(environment: Mapping[str, str], root: Path) -> Path | None:
    """Kubernetes' termination message or SageMaker's failure file."""
    termination = root / "dev/termination-log"
    if "KUBERNETES_SERVICE_HOST" in environment and os.access(termination, os.W_OK):
        return termination
    if (root / "opt/ml/input/config/resourceconfig.json").exists():
        return root / "opt/ml/output/failure"
    return None
