"""sky: a job is one managed job of SkyPilot, which rents the machines of any cloud, spot ones too,
and starts the job again elsewhere when they are reclaimed.

Data and checkpoints are in stores: SkyPilot mounts nothing.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from adapt.config.validation import Mistake
from adapt.platforms.platform import SECRET, Profile, Promised
from adapt.platforms.texts import VariableName, matching

_WORD = matching(r"[^\s:,]+", "one word")
_INFRA = matching(
    r"[A-Za-z0-9*][^\s]*", "a cloud, region and zone, as aws, aws/us-east-1, gcp/*/us-central1-a"
)
OUR_RESOURCES = {
    "accelerators": "set accelerators and gpus of the profile",
    "any_of": "list several names in accelerators of the profile",
    "cloud": "set infra of the profile",
    "cpus": "set cpus of the profile",
    "disk_size": "set disk_gb of the profile",
    "image_id": "set image of the profile",
    "infra": "set infra of the profile",
    "job_recovery": "set recovery of the profile",
    "labels": "set labels of the profile",
    "memory": "set memory_gb of the profile",
    "ordered": "list several names in accelerators of the profile",
    "priority": "set priority of the profile",
    "region": "set infra of the profile",
    "use_spot": "set spot of the profile",
    "zone": "set infra of the profile",
}
"""Keys of SkyPilot's `resources` that keys of the profile decide, and those."""

OUR_CONFIG = {
    "docker": "set run_options of the profile",
    "hooks": "set grace_s of the profile",
}
"""The same of SkyPilot's `config`."""


class SkyProfile(Profile):
    """The machines of a job, on whichever cloud has them."""

    platform: Literal["sky"] = Field(description="sky: a managed job of SkyPilot.")
    image: str = Field(
        min_length=1,
        description="The image, as the machines pull it, without `docker:` before it.",
    )
    infra: Annotated[str, _INFRA] | None = Field(
        None,
        description="CLOUD, CLOUD/REGION or CLOUD/REGION/ZONE, kubernetes or kubernetes/CONTEXT; "
        "none: the cheapest of all clouds that `sky check` shows as enabled.",
    )
    accelerators: list[Annotated[str, _WORD]] = Field(
        [],
        description="SkyPilot's names of GPUs (`sky gpus list`), any of which will do: the "
        "cheapest that is to be had. `gpus` of a node are of one kind.",
    )
    cpus: int | None = Field(None, ge=1, description="CPUs of a node at least; none: any.")
    memory_gb: float | None = Field(
        None, gt=0, description="Memory of a node at least, in 10^9 bytes; none: any."
    )
    disk_gb: float | None = Field(
        None,
        ge=50,
        description="Disk of a node in 10^9 bytes, for image, shard cache and scratch; none: "
        "SkyPilot's default, 256 GiB.",
    )
    spot: bool = Field(True, description="Rent spot machines, which a cloud may reclaim.")
    recovery: Literal["EAGER_NEXT_REGION", "FAILOVER"] | None = Field(
        None,
        description="Place of a reclaimed job's next start: EAGER_NEXT_REGION another region, "
        "FAILOVER the same region first; none: SkyPilot's default, the former.",
    )
    labels: dict[str, str] = Field({}, description="Labels, or tags, of the machines.")
    priority: int | None = Field(
        None, ge=-1000, le=1000, description="Priority among managed jobs; the higher goes first."
    )
    max_hours: float = Field(
        24,
        gt=0,
        description="Hours from `submit` on, waiting and all starts together, after which the job "
        "saves and is not started again.",
    )
    grace_s: int = Field(
        120, ge=10, le=3600, description="Seconds that a job has to save when it is stopped."
    )
    secrets: list[VariableName] = Field(
        [],
        description="NAMES of variables whose values `sky jobs launch` takes from the submitter's "
        "environment.",
    )
    setup: list[str] = Field(
        [], description="Lines of bash on each node, inside the image, before the job."
    )
    run_options: list[str] = Field([], description="More options of `docker run` on the machines.")
    resources: dict[str, Any] = Field(
        {}, description="More keys of SkyPilot's `resources`, such as {network_tier: best}."
    )
    config: dict[str, Any] = Field(
        {}, description="More keys of SkyPilot's `config` of a task, such as {gcp: {...}}."
    )

    def secret_names(self) -> Sequence[str]:
        """All of `secrets`."""
        return self.secrets

    def gpu_model(self) -> str | None:
        """By `gpu`, else the first of `accelerators`."""
        return self.gpu or next(iter(self.accelerators), None)

    def promised_gb(self) -> Promised:
        """The disk, if the profile names one."""
        return Promised(disk=self.disk_gb)

    @field_validator("image")
    @classmethod
    def _without_scheme(cls, image: str) -> str:
        if image.startswith("docker:") or any(one.isspace() for one in image):
            raise ValueError(f"expected an image's name without `docker:`, got {image!r}")
        return image

    @field_validator("resources")
    @classmethod
    def _more_resources(cls, resources: dict[str, Any]) -> dict[str, Any]:
        return _more(resources, OUR_RESOURCES)

    @field_validator("config")
    @classmethod
    def _more_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        return _more(config, OUR_CONFIG)

    @model_validator(mode="after")
    def _fits_together(self) -> "SkyProfile":
        twice = sorted(set(self.secrets) & self.environment.keys())
        if twice:
            raise Mistake(
                f"secrets: expected names that are not in environment, got {twice[0]}",
                fix="keep one",
            )
        if bool(self.gpus) != bool(self.accelerators):
            raise Mistake(
                f"accelerators: expected {'a name' if self.gpus else 'none'} beside gpus: "
                f"{self.gpus}, got {', '.join(self.accelerators) or 'none'}",
                fix="name GPUs that `sky gpus list` shows, or set gpus: 0 and no accelerators",
            )
        if self.max_hours * 3600 <= self.grace_s:
            raise ValueError(
                "max_hours: expected more than grace_s, got "
                f"{self.max_hours:g} h beside {self.grace_s} s"
            )
        return self


def gibibytes(gb: float) -> int:
    """SkyPilot's and the clouds' unit; rounded up."""
    return math.ceil(gb * 10**9 / 2**30)


def _more(keys: dict[str, Any], ours: dict[str, str]) -> dict[str, Any]:
    for name in keys:
        if name in ours:
            raise Mistake(
                f"expected keys that no key of the profile decides, got {name}", fix=ours[name]
            )
        if name.startswith("_") or SECRET.search(name):
            raise ValueError(f"expected SkyPilot's public keys, got {name}")
    return keys
