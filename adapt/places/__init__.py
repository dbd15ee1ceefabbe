"""Where this process runs: environment and files -> `Place`.

A platform is a row of PLACES, a pure function `(environment, root) -> Place | None`; the first
that knows itself wins, so the order matters: ModelArts runs on Volcano, SkyPilot on Kubernetes and
Slurm, and Kubeflow's pods are pods of Indexed Jobs. Process ranks come from torchrun alone (RANK,
WORLD_SIZE beside TORCHELASTIC_RUN_ID), since several platforms set variables of the same names that
count pods.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapt.errors import JobError
from adapt.places.docker import docker
from adapt.places.kubernetes import (
    HOST,
    indexed_job,
    pod,
    pytorchjob,
    termination_log,
    trainjob,
    volcano,
)
from adapt.places.local import local
from adapt.places.modelarts import modelarts
from adapt.places.place import (
    BY_HAND_FILE,
    CHANNELS,
    FILE_CHANNELS,
    NODES_WAIT_S,
    PLATFORM_VARIABLE,
    SHARE_CORES_VARIABLE,
    STATUS_VARIABLE,
    Place,
    channel_override,
    needed_number,
)
from adapt.places.sagemaker import (
    SAGEMAKER_FAILURE,
    SAGEMAKER_HOSTS,
    SAGEMAKER_MESSAGE,
    SAGEMAKER_PROCESSING,
    SPEC_VARIABLES,
    sagemaker,
)
from adapt.places.sky import sky
from adapt.places.slurm import slurm

__all__ = [
    "BY_HAND_FILE",
    "CHANNELS",
    "FILE_CHANNELS",
    "GRACE",
    "MODEL",
    "MODEL_SHA256",
    "NODES_WAIT_S",
    "PLACES",
    "PLATFORM_VARIABLE",
    "PREDICT_SHA256",
    "SHARE_CORES_VARIABLE",
    "SPEC_VARIABLES",
    "STATUS_VARIABLE",
    "Place",
    "failure_file",
    "find_place",
    "model_to_serve",
    "with_arguments",
]

GRACE = "SEGADAPT_GRACE_S"
NODES_WAIT = "SEGADAPT_NODES_WAIT_S"
MODEL = "SEGADAPT_MODEL"
MODEL_SHA256 = "SEGADAPT_MODEL_SHA256"
"""Of the file of weights of MODEL: another file is refused."""
PREDICT_SHA256 = "SEGADAPT_PREDICT_SHA256"
"""The same for the model of `predict` in a job of `predict --to`."""
SAGEMAKER_MODEL = "opt/ml/model"
"""Below the root: where SageMaker unpacks the model of an endpoint."""

_SHOWN = {SAGEMAKER_PROCESSING: SAGEMAKER_MESSAGE, SAGEMAKER_HOSTS: SAGEMAKER_FAILURE}
"""Files by which SageMaker is recognised, and those that it shows; below the root."""

PLACES: dict[str, Callable[[Mapping[str, str], Path], Place | None]] = {
    "sagemaker": sagemaker,
    "modelarts": modelarts,
    "sky": sky,
    "trainjob": trainjob,
    "pytorchjob": pytorchjob,
    "volcano": volcano,
    "indexed_job": indexed_job,
    "pod": pod,
    "slurm": slurm,
    "docker": docker,
    "local": local,
}


def find_place(environment: Mapping[str, str], root: Path | None = None) -> Place:
    """The place of the first row that recognises `environment`, with torchrun's ranks where it
    started us.

    `root` is where platforms put files, by default `SEGADAPT_ROOT`, else `/`. What users set by
    hand (`SEGADAPT_...`) comes before what the platform says. Raises `JobError` where a platform
    contradicts itself.
    """
    root = root or _root(environment)
    for recognise in PLACES.values():
        place = recognise(environment, root)
        if place is not None:
            place = _as_users_say(place)
            if place.launched:
                return _with_ranks(place, environment)
            _check_node(place)
            return place
    raise AssertionError("the last row recognises everything")


def _check_node(place: Place) -> None:
    """Raise `JobError` where a node's number is none of its job's: the others wait for it, or it
    for them, until they give up."""
    if place.node >= place.num_nodes:
        raise JobError(
            f"node: expected a number below {place.num_nodes}, the nodes of this job, got "
            f"{place.node}",
            fix="number the nodes from 0, and state how many there are on each (PET_NNODES, "
            "WORLD_SIZE or VC_WORKER_NUM)",
        )


def _root(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("SEGADAPT_ROOT") or "/")


def _as_users_say(place: Place) -> Place:
    environment = place.environment
    spec = environment.get("SEGADAPT_SPEC") or place.spec
    if spec is None and environment.get("SEGADAPT_SPEC_BASE64"):
        spec = "env:SEGADAPT_SPEC_BASE64"
    scratch = environment.get("SEGADAPT_SCRATCH_DIR")
    return replace(
        place,
        scratch_dir=Path(scratch) if scratch else place.scratch_dir,
        grace_s=needed_number(environment, GRACE) if environment.get(GRACE) else place.grace_s,
        nodes_wait_s=needed_number(environment, NODES_WAIT)
        if environment.get(NODES_WAIT)
        else place.nodes_wait_s,
        job=environment.get("SEGADAPT_JOB") or place.job,
        spec=spec,
        checkpoints_at=environment.get("SEGADAPT_CHECKPOINTS_AT") or None,
    )


def _with_ranks(place: Place, environment: Mapping[str, str]) -> Place:
    return replace(
        place,
        platform=environment.get(PLATFORM_VARIABLE) or place.platform,
        rank=needed_number(environment, "RANK"),
        num_ranks=needed_number(environment, "WORLD_SIZE"),
        local_rank=needed_number(environment, "LOCAL_RANK"),
        local_ranks=needed_number(environment, "LOCAL_WORLD_SIZE"),
        node=needed_number(environment, "GROUP_RANK"),
        num_nodes=needed_number(environment, "GROUP_WORLD_SIZE"),
    )


def with_arguments(place: Place, arguments: Sequence[str]) -> Place:
    """The place with what a platform appended to the command: `--NAME=VALUE` of a channel, or
    `--KEY=VALUE` of the job spec, which refuses unknown keys later.

    Raises `JobError` for anything else.
    """
    overrides, model_dir = [], place.model_dir
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise JobError(
                f"{argument}: expected --KEY=VALUE for a key of the job spec, got another argument",
                fix="see `segadapt run --help`",
            )
        if name == "model":
            model_dir = Path(value)
        else:
            overrides.append(channel_override(name, value))
    return replace(place, overrides=(*place.overrides, *overrides), model_dir=model_dir)


def model_to_serve(environment: Mapping[str, str]) -> str:
    """The model that a server serves without being given one: `SEGADAPT_MODEL`, else the folder in
    which SageMaker puts it, since it starts a container with the word `serve` alone.

    Raises `JobError` where there is neither.
    """
    folder = _root(environment) / SAGEMAKER_MODEL
    found = environment.get(MODEL) or (str(folder) if folder.is_dir() else "")
    if not found:
        raise JobError(
            f"MODEL: expected a model to serve, got none, neither {MODEL} nor a folder {folder}",
            fix="name a file of weights, a checkpoint's folder, a run or models:/NAME@best",
        )
    return found


def failure_file(environment: Mapping[str, str]) -> Path | None:
    """The file that the platform shows after a failure, also where its other facts are wrong."""
    root = _root(environment)
    for facts, shown in _SHOWN.items():
        if (root / facts).exists():
            return root / shown
    return termination_log(root) if HOST in environment else None
