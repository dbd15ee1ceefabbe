"""URIs and keys: split, joined, checked, and shown without passwords."""

import posixpath
import re
from pathlib import Path

from storage.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"
"""File names that start so are unfinished writes: never listed, never a key."""


_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def split_uri(uri: str) -> tuple[str, str]:
    """`scheme://rest` -> (scheme in lower case, rest); a plain path has the scheme `file`."""
    match = _URI.fullmatch(uri)
    return (match[1].lower(), match[2]) if match else ("file", uri)


def join(uri: str, *keys: str) -> str:
    """The URI of a key under `uri`: parts joined by single slashes, empty parts dropped."""
    rest = [part for part in (key.strip("/") for key in keys) if part]
    root = uri if uri.endswith("://") else uri.removesuffix("/")
    return "/".join([root, *rest]) if rest else uri


def canonical(uri: str) -> str:
    """One spelling of a URI: `file://` with an absolute path for a plain one, single slashes, none
    at the end, no `.` and `..`."""
    scheme, rest = split_uri(uri)
    path = str(Path.cwd() / rest) if scheme == "file" else rest
    return f"{scheme}://{posixpath.normpath(path)}"


def bucket_and_prefix(uri: str, name: str = "BUCKET") -> tuple[str, str, str]:
    """`scheme://BUCKET/PREFIX` -> (the URI without a slash at its end, BUCKET, `PREFIX/` or
    nothing). Raises `StoreError`, in which a bucket is called `name`."""
    scheme, rest = split_uri(uri)
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if not bucket:
        raise StoreError(f"{uri}: expected {scheme}://{name}/PREFIX, got no {name.lower()}")
    root = f"{scheme}://{bucket}"
    return join(root, prefix), bucket, f"{checked_key(prefix, root)}/" if prefix else ""


def checked_key(key: str, uri: str) -> str:
    """`key` if it stays under the root `uri` on every store. Raises `StoreError`."""
    parts = key.split("/")
    climbs = key.startswith("/") or any(part in ("", ".", "..") for part in parts)
    temporary = any(part.startswith(TEMPORARY_PREFIX) for part in parts)
    if climbs or temporary or "\\" in key or "\0" in key:
        raise StoreError(
            f"{uri}: expected a key of names joined by single '/', relative to the store's root, "
            f"without '..', '.', '\\' and names that start with {TEMPORARY_PREFIX!r}, got {key!r}",
            "name what lies below that root",
        )
    return key


def without_password(text: str) -> str:
    """The text with the `user:password@` of every URI in it replaced by `***@`."""
    return re.sub(r"://[^/@\s'\"]+@", "://***@", text)


def without_user(uri: str) -> str:
    """The URI without user and password, as it may be kept in a file."""
    return re.sub(r"://[^/@\s'\"]+@", "://", uri)
