"""The request for a container: pure, from a job and a profile; secrets by name."""

from typing import TYPE_CHECKING, Any

from adapt.errors import JobError
from adapt.platforms.docker.client import JOB_LABEL
from adapt.platforms.docker.profile import DockerProfile, Mount
from adapt.platforms.platform import Request, Submission
from adapt.platforms.reachable import CHECKPOINTS, unreachable
from adapt.platforms.spec_variable import spec_variable

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec


def request(submission: Submission, profile: DockerProfile) -> Request:
    """`name` and `body` of the container that runs the job, and `secrets`, the names of variables
    to add to the body. Raises `JobError` where the job spec is too long for a variable, or names
    paths that the container does not have or that are lost with it."""
    _check_paths(submission.job, profile)
    return {
        "name": submission.name,
        "secrets": list(profile.secrets),
        "body": {
            "Image": profile.image,
            "Cmd": ["run"],
            "Env": [f"{name}={value}" for name, value in _variables(submission, profile).items()],
            "Labels": {JOB_LABEL: submission.name, "segadapt.run": submission.job.name},
            "User": profile.user,
            "StopSignal": "SIGTERM",
            "StopTimeout": profile.grace_s,
            "HostConfig": host_config(profile),
        },
    }


def _check_paths(job: "JobSpec", profile: DockerProfile) -> None:
    """The root, /tmp and a /cache that is no mount are lost with the container."""
    read = [mount.target for mount in profile.mounts]
    written = [mount.target for mount in profile.mounts if not mount.read_only]
    offers = dict.fromkeys(job.uris(), "a folder of the profile's mounts")
    offers[CHECKPOINTS] = "a writable folder of the profile's mounts"
    lines = unreachable(job, profile, offers, read, written)
    if lines:
        raise JobError("\n".join(lines))


def _variables(submission: Submission, profile: DockerProfile) -> dict[str, str]:
    fix = "shorten it (classes take most), or put it into a store: docker run IMAGE run URI"
    hidden = {} if profile.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
    return {
        **hidden,
        "PET_NPROC_PER_NODE": str(max(1, profile.gpus)),
        **submission.environment(profile, profile.grace_s),
        **spec_variable("SPEC", submission.spec_base64(), fix),
    }


def host_config(profile: DockerProfile) -> dict[str, Any]:
    """The limits and mounts of every container. Init: a signal reaches a process that is still
    starting, and dead ones are collected."""
    config: dict[str, Any] = {
        "Init": True,
        "ReadonlyRootfs": profile.read_only_root,
        "Tmpfs": {"/tmp": ""},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ShmSize": _bytes(profile.shm_gb),
        "Mounts": [_mount(mount) for mount in profile.mounts],
    }
    if profile.network is not None:
        config["NetworkMode"] = profile.network
    if profile.memory_gb is not None:
        config["Memory"] = config["MemorySwap"] = _bytes(profile.memory_gb)
    if profile.gpus:
        which: dict[str, Any] = {"Count": profile.gpus}
        if profile.gpu_ids is not None:
            which = {"DeviceIDs": list(profile.gpu_ids)}
        config["DeviceRequests"] = [{"Driver": "", **which, "Capabilities": [["gpu"]]}]
    return config


def _bytes(gb: float) -> int:
    return round(gb * 10**9)


def _mount(mount: Mount) -> dict[str, Any]:
    """A missing folder is an error of the engine, where `-v` would make it as root."""
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {
        "Type": kind,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
