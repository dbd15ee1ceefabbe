"""The folders of a ModelArts profile: channels, which ModelArts transfers, and mounts."""

import re
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.errors import written
from adapt.platforms.texts import matching

ObsUri = Annotated[
    str, matching(r"obs://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/?#\\$]+)*/?", "obs://BUCKET/FOLDER")
]
Mounted = Annotated[
    str,
    matching(
        r"(?!/(cache|home|home/ma-user|home/ma-user/modelarts.*|opt/segadapt.*)/?$)(/[^/\s$]+)+/?",
        "a folder that nothing else uses, as in /mnt/data",
    ),
]


def obs_folder(uri: str) -> str:
    """`obs://bucket/folder` -> `/bucket/folder/`, as the API expects it."""
    return uri.removeprefix("obs:/").rstrip("/") + "/"


class Inputs(Section):
    """Folders that ModelArts downloads to every node before the job starts."""

    source: ObsUri | None = Field(None, description="Replaces source.uri of the job spec.")
    target: ObsUri | None = Field(None, description="Replaces target.uri.")
    validation: ObsUri | None = Field(None, description="Replaces validation.uri.")
    weights: ObsUri | None = Field(
        None, description="Folder with one file, which replaces model.weights_uri."
    )


class Outputs(Section):
    """Folders that ModelArts uploads every 30 s and at the end, each below it one of the run."""

    checkpoints: ObsUri | None = Field(None, description="Replaces checkpoint.uri.")
    model: ObsUri | None = Field(None, description="For the best weights, at the end.")


class VolumeKind(NamedTuple):
    """A row of VOLUMES: the API's key of `source`, and the form of it.

    `shared` mounts may be read-only, and need a dedicated pool.
    """

    source_key: str
    form: str
    expected: str
    shared: bool = False


_FOLDER = (r"/[a-z0-9][a-z0-9.-]+(/.*)?", "/BUCKET/FOLDER")
VOLUMES = {
    "nfs": VolumeKind("nfs_server_path", r"[^/:]+:/.*", "SERVER:/PATH", shared=True),
    "pfs": VolumeKind("pfs_path", *_FOLDER),
    "obs": VolumeKind("obs_path", *_FOLDER),
}
"""By `kind` of a mounted folder."""


class MountedFolder(Section):
    """A folder that ModelArts mounts on every node; nfs needs a dedicated pool."""

    kind: Literal["nfs", "pfs", "obs"] = Field(
        description="An NFS server (SFS Turbo), a parallel file system, or a bucket."
    )
    source: str = Field(min_length=2, description="nfs: SERVER:/PATH; pfs and obs: /BUCKET/FOLDER.")
    path: Mounted = Field(description="Path in the container.")
    read_only: bool = Field(False, description="Mount it for reading alone; only for nfs.")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        row = VOLUMES[self.kind]
        if re.fullmatch(row.form, self.source) is None:
            raise ValueError(
                f"expected source {row.expected} for {self.kind}, got {written(self.source)}"
            )
        if self.read_only and not row.shared:
            raise Mistake(
                f"read_only: expected false for {self.kind}, got true",
                fix="remove it, or mount an nfs, which alone has it",
            )
        return self
