"""slurm: a job is one batch job of a Slurm cluster, whose script is made from the same spec.

The commands of Slurm run on this machine, or over ssh on the cluster's login node. The folder of
logs, and the environment or image, are on file systems that all nodes share.
"""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.platforms.mounts import below
from adapt.platforms.platform import Profile
from adapt.platforms.texts import VariableName, matching

_WORD = matching(r"[A-Za-z0-9][A-Za-z0-9_.,@:/+-]*", "one word")
_ABSOLUTE = matching(r"/[^\s:,'\"\\]+", "an absolute path without spaces, `:` and `,`")
OUR_OPTIONS = frozenset(
    """
    account array chdir comment cpus-per-task error export gpus-per-node gres job-name mem
    no-requeue nodes ntasks ntasks-per-node open-mode output parsable partition qos requeue
    signal time wrap
    """.split()  # noqa: SIM905
)
"""Options of sbatch that keys of the profile, or the job itself, decide."""


class Bind(Section):
    """A folder of the nodes inside the container."""

    source: Annotated[str, _ABSOLUTE] = Field(description="Absolute path on the nodes.")
    target: Annotated[str, _ABSOLUTE] = Field(description="Absolute path inside the container.")
    read_only: bool = Field(False, description="Mount it for reading alone.")


class SlurmProfile(Profile):
    """A cluster, and what its batch jobs get."""

    platform: Literal["slurm"] = Field(description="slurm: a batch job of a Slurm cluster.")
    image: str = Field(
        description="apptainer: a .sif file that all nodes see, or docker://NAME:TAG; pyxis: "
        "REGISTRY#NAME:TAG or a .sqsh file; venv: the folder of a virtual environment that all "
        "nodes see, with SegAdapt installed."
    )
    runtime: Literal["apptainer", "pyxis", "venv"] = Field(
        "apptainer", description="Runtime on the nodes: apptainer, pyxis with enroot, or venv, a"
        " virtual environment without a container."
    )  # fmt: skip
    login: Annotated[str, matching(r"[A-Za-z0-9][^\s]*", "USER@HOST or a host's name")] | None = (
        Field(
            None,
            description="Machine with the commands of Slurm: USER@HOST, a login node that ssh "
            "reaches without a question; none: this machine.",
        )
    )
    folder: Annotated[str, _ABSOLUTE] = Field(
        description="Absolute path of a folder that all nodes see: logs, and how jobs ended."
    )
    partition: Annotated[str, _WORD] | None = Field(
        None, description="Partition of the jobs; none: the cluster's default."
    )
    account: Annotated[str, _WORD] | None = Field(
        None, description="Account that is charged; none: the user's default."
    )
    qos: Annotated[str, _WORD] | None = Field(
        None, description="Quality of service; none: the account's default."
    )
    cpus: int | None = Field(
        None, ge=1, description="CPUs of a node for the job; none: the cluster's default."
    )
    memory_gb: float | None = Field(
        None,
        ge=0.01,
        description="Memory of a node for the job in 10^9 bytes; none: the cluster's default.",
    )
    gpu_type: Annotated[str, matching(r"[A-Za-z0-9_.-]+", "a type of GRES")] | None = Field(
        None, description="Type of the GPUs as `sinfo -o %G` shows it, such as a100; none: any."
    )
    gpus_by: Literal["gres", "gpus-per-node"] = Field(
        "gres", description="Option of sbatch that asks for the GPUs."
    )
    max_hours: float = Field(
        24,
        gt=0,
        description="Time limit of a start in hours; the queue does not count. At its end the job "
        "saves and is queued again.",
    )
    restarts: int = Field(
        10, ge=0, description="Restarts of a job that ended with 75, which queue it again."
    )
    mounts: list[Bind] = Field([], description="Folders of the nodes inside the container.")
    setup: list[str] = Field(
        [], description="Lines of bash before the job, such as `module load apptainer`."
    )
    secrets: list[VariableName] = Field(
        [],
        description="NAMES of variables whose values are taken from the submitter's environment "
        "when the job is sent. Administrators of the cluster can read them.",
    )
    grace_s: int = Field(
        120,
        ge=1,
        le=65535,
        description="Seconds between SIGTERM and the end of the time limit, to save.",
    )
    options: dict[str, str | None] = Field(
        {}, description="More long options of sbatch without dashes, such as {constraint: nvlink}."
    )

    def secret_names(self) -> Sequence[str]:
        """All of `secrets`."""
        return self.secrets

    def gpu_model(self) -> str | None:
        """By `gpu`, else by `gpu_type`."""
        return self.gpu or self.gpu_type

    def longest_hours(self) -> float | None:
        """All starts together."""
        return self.max_hours * (self.restarts + 1)

    @property
    def minutes(self) -> int:
        """`max_hours` as Slurm counts it."""
        return math.ceil(self.max_hours * 60)

    def readable(self) -> list[str]:
        """Folders that the job can read."""
        return ["/"] if self.runtime == "venv" else [one.target for one in self.mounts]

    def writable(self) -> list[str]:
        """Folders in which what the job writes outlives it, as far as a profile can know."""
        bound = [one.target for one in self.mounts if not one.read_only]
        return ["/"] if self.runtime == "venv" else bound

    def outside(self, path: str) -> str | None:
        """A mount's source, a folder of the nodes."""
        return below(path, {one.target: f"the nodes' {one.source}" for one in self.mounts})

    def here(self, path: str) -> str | None:
        """The source of a mount, where this machine sees the cluster's file systems."""
        if self.login is not None:
            return None
        return below(path, {one.target: one.source for one in self.mounts})

    @field_validator("options")
    @classmethod
    def _more_options(cls, options: dict[str, str | None]) -> dict[str, str | None]:
        for name, value in options.items():
            if re.fullmatch(r"[a-z][a-z-]*", name) is None:
                raise ValueError(f"expected long options without dashes, got {name!r}")
            if name in OUR_OPTIONS:
                raise Mistake(
                    f"expected options that no key of the profile and no job decides, got {name}",
                    fix=_INSTEAD.get(name, "remove it"),
                )
            if value is not None and re.search(r"[\s'\"\\]", value):
                raise ValueError(
                    f"{name}: expected a value without spaces and quotes, got {value!r}"
                )
        return options

    @field_validator("setup")
    @classmethod
    def _of_lines(cls, setup: list[str]) -> list[str]:
        for line in setup:
            if "\n" in line or line.lstrip().startswith("#SBATCH"):
                raise ValueError(f"expected single lines that are no #SBATCH, got {line!r}")
        return setup

    @model_validator(mode="after")
    def _fits_together(self) -> "SlurmProfile":
        twice = sorted(set(self.secrets) & self.environment.keys())
        if twice:
            raise Mistake(
                f"secrets: expected names that are not in environment, got {twice[0]}",
                fix="keep one",
            )
        if self.runtime == "venv" and self.mounts:
            raise Mistake(
                "mounts: expected none without a container (runtime: venv), got "
                f"{len(self.mounts)}",
                fix="remove them: jobs see the nodes' own paths",
            )
        if self.runtime == "venv" and not self.image.startswith("/"):
            raise ValueError(
                "image: expected the absolute path of a virtual environment (runtime: venv), got "
                f"{self.image!r}"
            )
        if self.max_hours * 3600 <= self.grace_s + 60:
            raise ValueError(
                "max_hours: expected more than grace_s and the minute that Slurm may be early, got "
                f"{self.max_hours:g} h beside {self.grace_s} s"
            )
        return self


_INSTEAD = {
    "array": "submit each run of a sweep by itself: submit SPEC --set KEY=VALUE",
    "partition": "set partition of the profile",
    "account": "set account of the profile",
    "qos": "set qos of the profile",
    "time": "set max_hours of the profile",
    "mem": "set memory_gb of the profile",
    "cpus-per-task": "set cpus of the profile",
    "gres": "set gpus, gpu_type and gpus_by of the profile",
    "gpus-per-node": "set gpus, gpu_type and gpus_by of the profile",
    "nodes": "set nodes of the profile",
    "signal": "set grace_s of the profile",
}
