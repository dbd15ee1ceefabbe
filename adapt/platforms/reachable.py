"""Finds a job's URIs that are paths which its container would not have, most often a path of the
machine that submits, and servers and stores that it could not reach.

URIs that a platform replaces (`Profile.replaced`) may be anything in the spec.
"""

import posixpath
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapt.errors import JobError
from adapt.platforms.platform import Profile
from storage.stores import READ_ONLY, Stores
from storage.uris import split_uri, without_password

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


ALIASES = {"gcs": "gs", "azure": "az"}
STORED = ("s3", "obs", "gs", "az")
READ = (*STORED, "https", "http")
"""Schemes that jobs read; they write to the stored ones."""


def expected_uri(schemes: Collection[str], folders: Collection[str] = (), offer: str = "") -> str:
    """The expectation of a URI in messages: the schemes, and the mounted folders."""
    *first, last = [f"{scheme}://" for scheme in schemes]
    named = f"{', '.join(first)} or {last}" if first else last
    below = f", or a path below {' or '.join(folders)} ({offer})" if folders else ""
    return f"the URI of a store ({named}){below}"


def asked_faults(
    asked: Iterable[tuple[str, str]], profile: Profile, stores: Stores
) -> list[JobError]:
    """The faults of what a user named for a job, each a key as MODEL and a URI: its store lacks
    settings, or it is a server of this machine alone."""
    faults = []
    for key, uri in asked:
        missing = stores.missing(uri)
        if missing is not None:
            problem = f"{key}: expected {missing}, which {without_password(uri)!r} needs, got none"
            faults.append(JobError(problem, "name the job spec that has it: --spec SPEC"))
        if _is_loopback(uri) and not profile.shares_loopback():
            problem = (
                f"{key}: expected a server that {profile.platform} reaches, got "
                f"{without_password(uri)!r}, which is each machine's own"
            )
            faults.append(JobError(problem, "name the server's address in the network"))
    return faults


def raise_together(faults: Collection[JobError]) -> None:
    """Raise one `JobError` with a line for each fault, and the fixes; nothing without faults."""
    fixes = dict.fromkeys(fault.fix for fault in faults if fault.fix)
    if faults:
        raise JobError("\n".join(fault.problem for fault in faults), "; ".join(fixes))


def _is_loopback(uri: str) -> bool:
    scheme, _ = split_uri(uri)
    host = (urlsplit(uri).hostname or "") if scheme in READ_ONLY else ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _line(key: str, uri: str, offers: list[str]) -> str:
    *first, last = ["the URI of a store", *offers]
    expected = f"{', '.join(first)} or {last}" if first else last
    return (
        f"{key}: expected {expected}, got {uri!r}, a path that the job's container does not "
        "have or that is lost with it"
    )
