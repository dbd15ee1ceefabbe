"""docker: a job is one container of one engine, here or on another machine.

The request is the body of the engine's own `POST /containers/create`, so that a dry run shows
what the engine gets; only values of secrets are added while it is sent. The container stays after
its end for `status` and `logs`.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.platforms.endpoint import PORT, ServeArguments, ServeSettings
from adapt.platforms.mounts import below
from adapt.platforms.platform import Profile, Promised
from adapt.platforms.texts import VariableName, matching

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
    read_only: bool = Field(False, description="Mount it for reading alone.")

    @field_validator("target")
    @classmethod
    def _absolute(cls, target: str) -> str:
        if not target.startswith("/") or target.rstrip("/") in ("", "/opt/segadapt"):
            raise ValueError(
                f"expected an absolute path that is neither / nor /opt/segadapt, got {target!r}"
            )
        return target


class DockerServe(ServeSettings):
    """The endpoints of an engine, for `deploy`."""

    port: int = Field(PORT, ge=1, le=65535, description="Port of the engine's machine.")
    host: str = Field(
        "127.0.0.1",
        description="Address of the engine's machine that listens; 0.0.0.0: all of its networks.",
    )
    token: bool = Field(
        False,
        description="Ask requests for a token: SEGADAPT_TOKEN of the environment of `deploy`.",
    )
    arguments: ServeArguments = Field(
        [], description="More options of `segadapt serve`, such as [--precision, bf16]."
    )

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"expected an IP address, got {host!r}") from None
        return host


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
        None, description="The GPUs, by number or UUID; none: the first `gpus` of the machine."
    )
    network: Annotated[str, matching(_NAME, "the name of a network")] | None = Field(
        None,
        description="`host` (servers on the engine's own loopback are reachable), or a network's "
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
        True, description="Let the job write only to mounts and /tmp, which is memory."
    )
    mounts: list[Mount] = Field(
        [], description="Folders and volumes; one at /cache becomes the scratch folder."
    )
    secrets: list[VariableName] = Field(
        [],
        description="NAMES of variables whose values are taken from the submitter's environment "
        "when the job is sent. Every user of the engine can read them there.",
    )
    grace_s: int = Field(120, ge=1, description="Seconds between the engine's stop and its kill.")
    serve: DockerServe = Field(DockerServe(), description="Endpoints, for `deploy`.")

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

    def outside(self, path: str) -> str | None:
        """A mount's source: a folder of the engine's machine, or a volume."""
        named = {True: "the engine's ", False: "volume "}
        return below(
            path, {one.target: named[one.source[:1] == "/"] + one.source for one in self.mounts}
        )

    def here(self, path: str) -> str | None:
        """The source of a mounted folder, unless `engine_uri` is another machine's."""
        if self.engine_uri is not None and not self.engine_uri.startswith("unix:"):
            return None
        source = below(path, {one.target: one.source for one in self.mounts})
        return source if source and source.startswith("/") else None  # else a volume's name

    def shares_loopback(self) -> bool:
        """In the machine's own network."""
        return self.network == "host"

    def promised_gb(self) -> Promised:
        """/dev/shm."""
        return Promised(shm=self.shm_gb)

    @model_validator(mode="after")
    def _fits_together(self) -> "DockerProfile":
        twice = sorted(set(self.secrets) & self.environment.keys())
        if twice:
            raise Mistake(
                f"secrets: expected names that are not in environment, got {twice[0]}",
                fix="keep one",
            )
        if self.gpu_ids is not None and len(self.gpu_ids) != self.gpus:
            raise ValueError(
                f"gpu_ids: expected {self.gpus}, the number in gpus, got {len(self.gpu_ids)}"
            )
        targets = [mount.target.rstrip("/") for mount in self.mounts]
        if len(set(targets)) < len(targets):
            raise ValueError(f"mounts: expected different targets, got {targets}")
        return self
