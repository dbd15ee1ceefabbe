"""Finds a job's URIs that are paths which its container would not have: most often a path of the
machine that submits.

URIs that a platform replaces (`Profile.replaced`) may be anything in the spec.
"""

import posixpath
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from adapt.platforms.platform import Profile
from storage.uris import split_uri

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

IMAGE = "/opt/segadapt"
"""The image's folder with our files, and maybe a user's weights."""

CHECKPOINTS = "checkpoint.uri"


def unreachable(
    job: "JobSpec",
    profile: Profile,
    offers: Mapping[str, str],
    mounted: Collection[str] = (),
    writable: Collection[str] | None = None,
) -> list[str]:
    """A line for each URI that is a path of no folder in the container, with the alternatives.

    `mounted` are folders that the platform mounts there; checkpoints must lie below one that is
    `writable`, by default any of them, since the image's folders are lost with the container.
    `offers` has, by key of the spec, an alternative, as "channels.source in the profile".
    """
    replaced, lines = profile.replaced(), []
    for key, uri in job.uris().items():
        folders = [*mounted, IMAGE]
        if key == CHECKPOINTS:
            folders = [*(mounted if writable is None else writable)]
        if key not in replaced and not is_there(uri, folders):
            expected = [offers[key]] if key in offers else []
            expected += [f"a path below {folder}" for folder in folders]
            lines.append(_line(key, uri, expected))
    return lines


def is_there(uri: str, folders: Collection[str]) -> bool:
    """Return whether it is no path, or one below a folder."""
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
