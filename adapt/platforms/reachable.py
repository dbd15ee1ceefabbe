"""Which of a job's URIs are paths that its container would not have: a path of the machine that
submits, most often.

What a platform brings itself (`Profile.replaced`) may stand anywhere in the spec.
"""

import posixpath
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from adapt.platforms.platform import Profile
from storage.uris import split_uri

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

IMAGE = "/opt/segadapt"
"""Where the image holds files of ours, and may hold a user's weights."""

CHECKPOINTS = "checkpoint.uri"


def unreachable(
    job: "JobSpec",
    profile: Profile,
    cures: Mapping[str, str],
    mounted: Collection[str] = (),
    writable: Collection[str] | None = None,
) -> list[str]:
    """A line for each URI that is a path of no folder in the container, with its cure.

    `mounted` are folders that the platform mounts there; checkpoints must lie below one that is
    `writable`, by default any of them, since the image's folders go with the container. `cures`
    has, by key of the spec, what the profile offers instead, as "channels.source in the profile".
    """
    brought, lines = profile.replaced(), []
    for key, uri in job.uris().items():
        folders = [*mounted, IMAGE]
        if key == CHECKPOINTS:
            folders = [*(mounted if writable is None else writable)]
        if key not in brought and not _is_there(uri, folders):
            offers = [cures[key]] if key in cures else []
            offers += [f"a path below {folder}" for folder in folders]
            lines.append(_line(key, uri, offers))
    return lines


def _is_there(uri: str, folders: Collection[str]) -> bool:
    """Whether it is no path, or one below a folder."""
    scheme, path = split_uri(uri)
    whole = posixpath.normpath(path)  # `..` must not lead out
    below = any(f"{whole}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)
    return scheme != "file" or below


def _line(key: str, uri: str, offers: list[str]) -> str:
    *first, last = ["the URI of a store", *offers]
    expected = f"{', '.join(first)} or {last}" if first else last
    return (
        f"{key}: expected {expected}, got {uri!r}, a path that the job's container does not "
        "have or that is lost with it"
    )
