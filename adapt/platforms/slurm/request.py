"""The request for a batch job: pure, from a job and a profile; secrets by name."""

from typing import TYPE_CHECKING

from adapt.errors import JobError
from adapt.platforms.platform import Request, Submission
from adapt.platforms.prediction import Sliced, check_one_gpu, check_one_node, check_uris
from adapt.platforms.reachable import CHECKPOINTS, unreachable
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.platforms.slurm.script import batch_script
from adapt.platforms.spec_variable import spec_variable

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
"""Of a job without GPUs: a cluster may not hide those of its nodes."""


def request(submission: Submission, profile: SlurmProfile) -> Request:
    """`name`, `folder`, `script`, and `secrets`, the names of variables whose values the script
    gets from sbatch's environment. Raises `JobError` where the job spec is too long for a
    variable, or names paths that the nodes do not have."""
    _check_paths(submission.job, profile)
    spec = spec_variable("SPEC", submission.spec_base64(), "shorten it: classes take most")
    variables = {
        **({} if profile.gpus else HIDDEN),
        "PET_NPROC_PER_NODE": str(max(1, profile.gpus)),
        **submission.environment(profile, profile.grace_s),
        **spec,
    }
    return _request(submission.name, profile, batch_script(submission.name, profile, variables,
                                                           ["run"]))  # fmt: skip


def prediction_requests(prediction: Sliced, profile: SlurmProfile) -> dict[str, Request]:
    """The requests of a set by their jobs' names, a batch job for each slice. Raises `JobError`
    for URIs that the nodes do not have, and for nodes or GPUs that a slice would not use."""
    check_uris(prediction, "mounts of the profile", profile.readable(), profile.writable())
    check_one_gpu(profile)
    check_one_node(profile)
    variables = prediction.environment(profile, profile.grace_s) | prediction.spec_variable()
    hidden = {} if profile.gpus else HIDDEN
    made = {}
    for number in prediction.slices:
        name = prediction.name_of(number)
        words = prediction.arguments(number)
        made[name] = _request(name, profile, batch_script(name, profile, hidden | variables, words))
    return made


def _request(name: str, profile: SlurmProfile, script: str) -> Request:
    return {
        "name": name,
        "folder": profile.folder,
        "secrets": list(profile.secrets),
        "script": script,
    }


def _check_paths(job: "JobSpec", profile: SlurmProfile) -> None:
    offers = dict.fromkeys(job.uris(), "a folder of the profile's mounts")
    offers[CHECKPOINTS] = "a writable folder of the profile's mounts"
    lines = unreachable(job, profile, offers, profile.readable(), profile.writable())
    if lines:
        raise JobError("\n".join(lines))
