"""docker: a job is one container of one engine, here or on another machine.

The request is the body of the engine's own `POST /containers/create`, so that what a dry run shows
is what the engine gets; values of secrets alone are put in while it is sent. The container stays
after its end, so that `status` and `logs` can tell how it went.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from adapt.errors import JobError
from adapt.platforms.docker_client import JOB_LABEL, DockerClient, connect
from adapt.platforms.platform import Platform, Profile, Promised, Request, Submission
from adapt.platforms.reachable import CHECKPOINTS, unreachable
from adapt.platforms.texts import VariableName, matching
from adapt.section import Section

if TYPE_CHECKING:
    from adapt.spec import JobSpec

VARIABLE_BYTES = 131_072
"""Linux's limit for one variable of a process, its name and its end included."""

_REFERENCE = re.compile(
    r"([A-Za-z0-9.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_SOURCE = rf"/.*|{_NAME}"
_ENGINES = ("unix://", "tcp://", "ssh://", "npipe://")


class Mount(Section):
    """A folder of the engine's machine, or a volume, inside the container."""

    source: Annotated[str, matching(_SOURCE, "an absolute path or a volume's name")] = Field(
        description="Absolute path of a folder on the engine's machine, or the name of a volume, "
        "which is made where it is absent."
    )
    target: str = Field(description="Absolute path inside the container.")
    read_only: bool = Field(False, description="Whether the job may only read it.")

    @field_validator("target")
    @classmethod
    def _absolute(cls, target: str) -> str:
        if not target.startswith("/") or target.rstrip("/") in ("", "/opt/segadapt"):
            raise ValueError(
                f"expected an absolute path that is neither / nor /opt/segadapt, got {target!r}"
            )
        return target


class DockerProfile(Profile):
    """An engine, and what its containers get."""

    platform: Literal["docker"] = Field(description="docker: a container of a Docker engine.")
    engine_uri: str | None = Field(
        None,
        description="The engine: unix:///PATH, ssh://USER@MACHINE[:PORT], or tcp://MACHINE:2376 "
        "with TLS where DOCKER_TLS_VERIFY or DOCKER_CERT_PATH is set; none: as the docker command "
        "finds it (DOCKER_HOST, the current context).",
    )
    gpu_ids: list[str] | None = Field(
        None, description="Which GPUs, by number or UUID; none: the first `gpus` of the machine."
    )
    network: Annotated[str, matching(_NAME, "the name of a network")] | None = Field(
        None,
        description="`host` (servers on the engine's own loopback are reached), or a network's "
        "name; none: the engine's default bridge.",
    )
    shm_gb: float = Field(
        1.0, gt=0, description="Size of /dev/shm in 10^9 bytes; the engine's default is 0.064."
    )
    memory_gb: float | None = Field(
        None,
        ge=0.1,
        description="Memory in 10^9 bytes, swap included, /tmp and /dev/shm too; none: no limit.",
    )
    user: Annotated[str, matching(r"\d+:\d+", "numbers, USER:GROUP")] = Field(
        "1000:100", description="Numbers of user and group; the image's own."
    )
    read_only_root: bool = Field(
        True, description="Whether only mounts and /tmp, which is memory, can be written."
    )
    mounts: list[Mount] = Field(
        [], description="Folders and volumes; one at /cache becomes the scratch folder."
    )
    secrets: list[VariableName] = Field(
        [],
        description="NAMES of variables whose values are taken from the submitter's environment "
        "when the job is sent. Whoever may use the engine can read them there.",
    )
    grace_s: int = Field(120, ge=1, description="Seconds between the engine's stop and its kill.")

    @field_validator("image")
    @classmethod
    def _reference(cls, image: str) -> str:
        if not _REFERENCE.fullmatch(image):
            raise ValueError(f"expected [REGISTRY/]NAME:TAG, NAME in lower case, got {image!r}")
        return image

    @field_validator("nodes")
    @classmethod
    def _one_machine(cls, nodes: int) -> int:
        if nodes != 1:
            raise ValueError(f"expected 1, since an engine is one machine, got {nodes}")
        return nodes

    @field_validator("engine_uri")
    @classmethod
    def _known_scheme(cls, uri: str | None) -> str | None:
        if uri is not None and not uri.startswith(_ENGINES):
            raise ValueError(f"expected one of {' '.join(_ENGINES)}, got {uri!r}")
        return uri

    def secret_names(self) -> Sequence[str]:
        """All of `secrets`."""
        return self.secrets

    def promised_gb(self) -> Promised:
        """/dev/shm."""
        return Promised(shm=self.shm_gb)

    @model_validator(mode="after")
    def _fits_together(self) -> "DockerProfile":
        twice = sorted(set(self.secrets) & self.environment.keys())
        if twice:
            raise ValueError(f"secrets: {twice[0]} stands in environment too; keep one")
        if self.gpu_ids is not None and len(self.gpu_ids) != self.gpus:
            raise ValueError(
                f"gpu_ids: expected {self.gpus} of them, as gpus says, got {len(self.gpu_ids)}"
            )
        targets = [mount.target.rstrip("/") for mount in self.mounts]
        if len(set(targets)) < len(targets):
            raise ValueError(f"mounts: expected different targets, got {targets}")
        return self


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
            "HostConfig": _host_config(profile),
        },
    }


def _check_paths(job: "JobSpec", profile: DockerProfile) -> None:
    """The root, /tmp and a /cache that is no mount go with the container."""
    read = [mount.target for mount in profile.mounts]
    written = [mount.target for mount in profile.mounts if not mount.read_only]
    cures = dict.fromkeys(job.uris(), "a folder that mounts of the profile brings")
    cures[CHECKPOINTS] = "a writable folder that mounts of the profile brings"
    lines = unreachable(job, profile, cures, read, written)
    if lines:
        raise JobError("\n".join(lines))


def _variables(submission: Submission, profile: DockerProfile) -> dict[str, str]:
    spec = submission.spec_base64()
    if len(spec) + len("SEGADAPT_SPEC_BASE64=") >= VARIABLE_BYTES:
        raise JobError(
            f"SPEC: expected at most {VARIABLE_BYTES} characters in base64, found {len(spec)}; "
            "shorten it (classes take most), or put it into a store: docker run IMAGE run URI"
        )
    hidden = {} if profile.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
    return {
        **hidden,
        "PET_NPROC_PER_NODE": str(max(1, profile.gpus)),
        **submission.environment(profile, profile.grace_s),
        "SEGADAPT_SPEC_BASE64": spec,
    }


def _host_config(profile: DockerProfile) -> dict[str, Any]:
    """Init: a signal reaches a job that is still starting, and dead processes are collected."""
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
    """A folder that is not there is an error of the engine's, where `-v` would make it as root."""
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {
        "Type": kind,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }


def _connect(profile: DockerProfile, environment: Mapping[str, str]) -> DockerClient:
    return connect(profile.engine_uri, environment)


DOCKER = Platform(
    profile=DockerProfile,
    request=request,
    connect=_connect,
    grace_s=lambda profile: float(profile.grace_s),
    restarts=lambda _profile: False,
)
