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
from storage.config import StoreConfig, fitting_key, settings_name
from storage.stores import READ_ONLY, Stores
from storage.uris import split_uri, without_password

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

IMAGE = "/opt/segadapt"
"""The image's folder with our files, and maybe a user's weights."""

CHECKPOINTS = "checkpoint.uri"
OWN_FIX = "name the server's address in the network"
"""Of servers on 127.0.0.1, which are each machine's own."""


def unreachable(
    job: "JobSpec",
    profile: Profile,
    offers: Mapping[str, str],
    mounted: Collection[str] = (),
    writable: Collection[str] | None = None,
) -> list[str]:
    """A line for each URI that is a path of no folder in the container, with the alternatives, and
    for each server of the URIs or of their stores that is each machine's own.

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
    opened = [(key, uri) for key, uri in job.uris().items() if key not in replaced]
    return [
        *lines,
        *(f"{own}. Fix: {OWN_FIX}" for own in _own_servers(opened, profile, job.stores)),
    ]


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
    """The expectation of a URI in messages: the schemes, and the mounted folders; without schemes
    these alone."""
    if not schemes:
        mounted = f"{' or '.join(folders)} ({offer})"
        return f"a path below {mounted if folders else 'a mount, of which there is none'}"
    *first, last = [f"{scheme}://" for scheme in schemes]
    named = f"{', '.join(first)} or {last}" if first else last
    below = f", or a path below {' or '.join(folders)} ({offer})" if folders else ""
    return f"the URI of a store ({named}){below}"


def asked_faults(
    asked: Iterable[tuple[str, str]], profile: Profile, stores: Stores
) -> list[JobError]:
    """The faults of what a user named for a job, each a key as MODEL and a URI: its store lacks
    settings, or it is, or its store's `endpoint_url` is, a server of this machine alone."""
    asked, faults = [*asked], []
    for key, uri in asked:
        missing = stores.missing(uri)
        if missing is not None:
            problem = f"{key}: expected {missing}, which {without_password(uri)!r} needs, got none"
            faults.append(JobError(problem, "name the job spec that has it: --spec SPEC"))
    own = _own_servers(asked, profile, stores.configs)
    return faults + [JobError(problem, OWN_FIX) for problem in own]


def key_faults(
    uris: Iterable[str], profile: Profile, configs: Mapping[str, StoreConfig]
) -> list[JobError]:
    """A fault for each store of the URIs whose keys are in variables, where the platform's jobs get
    no secrets."""
    if profile.takes_secrets:
        return []
    used = {fitting_key(uri, configs) for uri in uris} - {None}
    return [
        JobError(
            f"{settings_name(store)}.access_key_env: expected none, got one", profile.secrets_go
        )
        for store in sorted(map(str, used))
        if configs[store].access_key_env is not None
    ]


def raise_together(faults: Collection[JobError]) -> None:
    """Raise one `JobError` with a line for each fault, and the fixes; nothing without faults."""
    fixes = dict.fromkeys(fault.fix for fault in faults if fault.fix)
    if faults:
        raise JobError("\n".join(fault.problem for fault in faults), "; ".join(fixes))


def _own_servers(
    asked: Iterable[tuple[str, str]], profile: Profile, configs: Mapping[str, StoreConfig]
) -> list[str]:
    """A line for each server among URIs and the addresses of their stores, once, that is each
    machine's own, by its key."""
    servers: list[tuple[str, str]] = []
    for key, uri in asked:
        store = fitting_key(uri, configs)
        address = None if store is None else configs[store].endpoint_url
        servers.append((key, uri))
        if store is not None and address is not None:
            servers.append((f"{settings_name(store)}.endpoint_url", address))
    return [
        f"{key}: expected a server that {profile.platform} reaches, got {without_password(uri)!r}, "
        "which is each machine's own"
        for key, uri in dict.fromkeys(servers)
        if _is_loopback(uri) and not profile.shares_loopback()
    ]


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
