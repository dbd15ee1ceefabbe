"""Where this process runs: environment -> `Place`.

The only reader of the environment in `adapt`. A platform is a row of PLACES, a pure function
`environment -> Place | None`; the first that knows itself wins. Process ranks come from torchrun
alone (RANK, WORLD_SIZE beside TORCHELASTIC_RUN_ID), since several platforms set variables of the
same names that count pods.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """What the platform gave this process.

    `node/num_nodes` and `rank/num_ranks` are positions; `local_rank/local_ranks` numbers the
    processes of a node, and so the GPUs. `scratch_dir` is the node's disk for caches. `grace_s` is
    the time between SIGTERM and SIGKILL.
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
        folder = self.environment.get("SEGADAPT_STATUS_DIR")
        return Path(folder) if folder and self.launched else None

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


def find_place(environment: Mapping[str, str]) -> Place:
    """The place of the first row that recognises `environment`, with torchrun's ranks where it
    started us."""
    for recognise in PLACES.values():
        place = recognise(environment)
        if place is not None:
            return _with_ranks(place, environment)
    raise AssertionError("the last row recognises everything")


def _with_ranks(place: Place, environment: Mapping[str, str]) -> Place:
    if "TORCHELASTIC_RUN_ID" not in environment:
        return place
    return replace(
        place,
        rank=int(environment["RANK"]),
        num_ranks=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
        local_ranks=int(environment["LOCAL_WORLD_SIZE"]),
        node=int(environment["GROUP_RANK"]),
        num_nodes=int(environment["GROUP_WORLD_SIZE"]),
    )
