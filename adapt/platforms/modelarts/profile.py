"""The profile of Huawei ModelArts: account, pool and folders, written once.

Values that ModelArts would refuse later are refused here, by key. Sources of the limits: the API's
reference of training jobs (v2) and the descriptions in its SDK.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.places import CHANNELS, FILE_CHANNELS
from adapt.platforms.modelarts.folders import (
    VOLUMES,
    Inputs,
    MountedFolder,
    ObsUri,
    Outputs,
    obs_folder,
)
from adapt.platforms.modelarts.serve import ModelArtsServe
from adapt.platforms.mounts import below
from adapt.platforms.platform import Profile
from adapt.platforms.texts import VariableName, matching

POOL_FLAVORS = {
    f"modelarts.pool.visual.{size}xlarge": cards
    for size, cards in (("", 1), ("2", 2), ("4", 4), ("8", 8), ("16", 16))
}
"""The flavors of dedicated pools, and the cards of each."""

_IMAGE = re.compile(
    r"((?P<host>[a-z0-9-]+(\.[a-z0-9-]+)+)/)?[a-z0-9_.-]+(/[a-z0-9_.-]+)+:\w[\w.-]{0,127}"
)


Region = Annotated[str, matching(r"[a-z]{2}-[a-z]+-[0-9]+", "a region, as in cn-north-4")]
Endpoint = Annotated[
    str, matching(r"https?://[^/?#\s]+", "the URL of the API without a path, https://HOST")
]
ProjectId = Annotated[str, matching(r"[0-9a-f]{32}", "32 digits of 0-9 and a-f")]
WorkspaceId = Annotated[str, matching(r"0|[0-9a-f]{32}", "0 or 32 digits of 0-9 and a-f")]
TopicUrn = Annotated[str, matching(r"urn:smn:.+", "the URN of a topic, urn:smn:...")]
Event = Literal[
    "JobStarted",
    "JobCompleted",
    "JobFailed",
    "JobTerminated",
    "JobRestarted",
    "JobHanged",
    "JobPreempted",
]


class Notification(Section):
    """Messages by the Simple Message Notification service."""

    topic_urn: TopicUrn = Field(description="URN of the topic, urn:smn:...")
    events: list[Event] = Field(min_length=1, description="Events that send a message.")


class ModelArtsProfile(Profile):
    """Where and how ModelArts runs a job."""

    platform: Literal["modelarts"] = Field(description="This platform.")
    region: Region = Field(description="Region, such as cn-north-4.")
    endpoint: Endpoint | None = Field(
        None, description="URL of the API; none = https://modelarts.REGION.myhuaweicloud.com."
    )
    project_id: ProjectId | None = Field(
        None, description="The region's project, 32 digits; none = the value of project_id_env."
    )
    workspace_id: WorkspaceId = Field("0", description="0 is the default.")
    flavor_id: str | None = Field(
        None,
        min_length=1,
        description="Machine: one of the public pool, or modelarts.pool.visual.*xlarge with "
        "pool_id; none for a dedicated pool of CPUs.",
    )
    pool_id: str | None = Field(None, min_length=1, description="A dedicated pool; none = public.")
    max_hours: int | None = Field(
        None, ge=1, description="ModelArts stops the job after so many hours (auto stop)."
    )
    log_uri: ObsUri | None = Field(
        None, description="Folder for logs; without one they are kept for 30 days."
    )
    restarts: int = Field(
        3, ge=0, le=128, description="Number of times that ModelArts starts a broken job again."
    )
    restart_always: bool = Field(
        True,
        description="Restart also after an exit code of the job's own, as 75 (interrupted, saved), "
        "not only after broken hardware.",
    )
    restart_hanging: bool = Field(
        False,
        description="Restart also after a hang that ModelArts detects, as the spec's "
        "train.stall_minutes does.",
    )
    grace_s: float = Field(
        30,
        gt=0,
        description="Time between stop and kill. ModelArts documents none: 30 s is a guess.",
    )
    inputs: Inputs = Field(Inputs(), description="Folders to read, with the rights of the agency.")
    outputs: Outputs = Field(
        Outputs(), description="Folders to write, with the rights of the agency."
    )
    predownload: bool = Field(
        True,
        description="Download outputs.checkpoints before the start, which a restarted "
        "job needs to resume (prefetch_to_local).",
    )
    volumes: list[MountedFolder] = Field([], description="Folders to mount, seen by all nodes.")
    priority: Literal[1, 2, 3] | None = Field(
        None, description="Priority in a dedicated pool; 3 is the highest and needs a permission."
    )
    preemptible: bool | None = Field(None, description="Let other jobs displace this one.")
    notification: Notification | None = Field(None, description="Messages about the job.")
    spec_uri: ObsUri | None = Field(
        None,
        description="Folder in which the resolved job spec (`check SPEC` prints it) is the only "
        "YAML file, for one that does not fit a variable.",
    )
    secrets: list[VariableName] = Field(
        [],
        description="Variables of yours that the job needs, by name. ModelArts has no store of "
        "secrets: every user who may see the job sees their values.",
    )
    access_key_env: VariableName = Field(
        "HUAWEICLOUD_SDK_AK", description="Variable with the access key of the submitter."
    )
    secret_key_env: VariableName = Field(
        "HUAWEICLOUD_SDK_SK", description="Variable with the secret key."
    )
    security_token_env: VariableName = Field(
        "HUAWEICLOUD_SDK_SECURITY_TOKEN",
        description="Variable with the token of temporary keys; may be unset.",
    )
    project_id_env: VariableName = Field(
        "HUAWEICLOUD_SDK_PROJECT_ID", description="Variable with the project, without project_id."
    )
    serve: ModelArtsServe = Field(ModelArtsServe(), description="Endpoints, for `deploy`.")

    def secret_names(self) -> Sequence[str]:
        """All of `secrets`."""
        return self.secrets

    def gpu_model(self) -> str | None:
        """The flavor's, where its name or generation says it: p3 has V100."""
        flavor = self.flavor_id or ""
        named = re.sub(r"(^|\.)p3(?=\.)", ".v100", flavor)
        return self.gpu or named

    def replaced(self) -> dict[str, str]:
        """The inputs, and the output of the checkpoints."""
        named = {**self.inputs.model_dump(), "checkpoints": self.outputs.checkpoints}
        keys = {**CHANNELS, **FILE_CHANNELS}
        return {keys[name]: uri for name, uri in named.items() if uri is not None}

    def outside(self, path: str) -> str | None:
        """A mounted folder's source."""
        sources = {one.path: f"{one.kind} {one.source.rstrip('/')}" for one in self.volumes}
        return below(path, sources)

    def results(self, run: str, _job: str) -> dict[str, str]:
        """The folders of the outputs."""
        model = self.outputs.model
        found = {"best weights": model and f"{model.rstrip('/')}/{run}/", "log": self.log_uri}
        return {what: uri for what, uri in found.items() if uri}

    def checkpoints_at(self, run: str) -> str | None:
        """The run's own folder of the output, as in the request."""
        outside = self.outputs.checkpoints
        return None if outside is None else f"{outside.rstrip('/')}/{run}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_image()
        self._check_machine()
        self._check_folders()
        if self.restarts == 0 and self.restart_hanging:
            raise ValueError("restart_hanging: expected false with restarts 0, got true")
        return self

    def _check_image(self) -> None:
        found = _IMAGE.fullmatch(self.image)
        if found is None:
            raise ValueError(f"image: expected ORGANIZATION/NAME:TAG of SWR, got {self.image!r}")
        host = found["host"]
        if host and not host.startswith("swr.") and ".swr" not in host:
            raise Mistake(
                f"image: expected an image of SWR, got one of {host}",
                fix="docker tag and docker push it to your organization there",
            )
        if host and host.startswith("swr.") and not host.startswith(f"swr.{self.region}."):
            raise ValueError(
                f"image: expected an image of the region {self.region}, got {self.image!r}"
            )

    def _check_machine(self) -> None:
        cards = POOL_FLAVORS.get(self.flavor_id or "")
        if self.pool_id is None:
            self._check_public(cards)
        elif self.flavor_id is None and self.gpus > 0:
            raise ValueError(
                f"flavor_id: missing, expected one of {', '.join(POOL_FLAVORS)} for the GPUs of a "
                "dedicated pool"
            )
        elif self.flavor_id is not None and cards is None:
            raise ValueError(
                f"flavor_id: expected one of {', '.join(POOL_FLAVORS)} in a dedicated pool, got "
                f"{self.flavor_id!r}"
            )
        if cards is not None and cards != self.gpus:
            raise ValueError(
                f"gpus: expected {cards}, the cards of {self.flavor_id}, got {self.gpus}"
            )

    def _check_public(self, cards: int | None) -> None:
        if self.flavor_id is None:
            raise ValueError("flavor_id: missing, expected a flavor of the public pool, or pool_id")
        if cards is not None:
            raise ValueError(
                f"pool_id: missing, expected the dedicated pool that {self.flavor_id} is for"
            )
        if self.priority is not None:
            raise ValueError(
                "priority: expected none without pool_id, since the public pool has none, got "
                f"{self.priority}"
            )
        if any(VOLUMES[volume.kind].shared for volume in self.volumes):
            raise ValueError(
                "volumes: expected no nfs without pool_id, since SFS Turbo needs a pool, got one"
            )

    def _check_folders(self) -> None:
        paths = [volume.path.rstrip("/") for volume in self.volumes]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        if twice:
            raise ValueError(f"volumes: expected a path for each, got {twice[0]} twice")
        read = self.inputs.model_dump().values()
        taken = {obs_folder(uri): "the inputs" for uri in read if uri}
        for key in ("checkpoints", "model"):
            uri = getattr(self.outputs, key)
            if uri is None:
                continue
            folder = obs_folder(uri)
            other = next((taken[one] for one in taken if folder.startswith(one)), None)
            if other is not None:
                raise ValueError(
                    f"outputs.{key}: expected a folder apart from {other}, got {uri!r}"
                )
            taken[folder] = "outputs.checkpoints"
        if self.outputs.checkpoints and self.nodes > 1:
            raise Mistake(
                f"outputs.checkpoints: expected nodes 1, got {self.nodes}: every node has a "
                "folder of its own there, and ModelArts uploads them over one another",
                fix="mount a volume, or put checkpoint.uri of the job spec into OBS",
            )
