"""Bytes behind URIs: the `Store` protocol, its errors and retries, and the table of stores.

A store knows nothing of training. Every key is relative to the store's root URI
(`s3://bucket/prefix`), uses `/`, and never climbs out of it. Writes are atomic: a reader sees the
old bytes or the new ones, never a part.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.settings import fitting_key, key_fault, settings_name

TEMPORARY_PREFIX = ".tmp-"
"""File names that start so are unfinished writes: never listed, never a key."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_Result = TypeVar("_Result")


class StoreError(Exception):
    """A store could not do what was asked, after retries. Names the URI and the cure."""

    exit_code = 3


class MissingObject(StoreError):
    """There is no object at that URI."""


class StoreUnavailable(StoreError):
    """The store did not answer or broke off; the same request may succeed later."""


class ShortObject(StoreError):
    """The object ends before the bytes that were asked for."""


class ObjectInfo(NamedTuple):
    """One stored object: its key relative to the store's root, and its size."""

    key: str
    size_bytes: int


class Download(Protocol):
    """The bytes of one object from an offset on, as one request brings them."""

    def __iter__(self) -> Iterator[bytes]:
        """Blocks of any size, as they arrive.

        Raises `StoreUnavailable` where the answer breaks off, `ShortObject` where the object ends
        at or before the offset, `MissingObject`, `StoreError`.
        """
        ...

    def cancel(self) -> None:
        """End it from another thread, before or during the iteration, which raises
        `StoreUnavailable` then."""
        ...


class Store(Protocol):
    """Objects under one root URI. Many threads may call it. All methods raise `StoreError`."""

    uri: str

    def get(self, key: str) -> bytes:
        """The whole object. Raises `MissingObject` where there is none."""
        ...

    def get_range(self, key: str, offset_bytes: int, length_bytes: int) -> bytes:
        """`length_bytes` (>= 1) from `offset_bytes`; `StoreError` where the object is shorter."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Download to a local file, atomically (temporary name, fsync, rename)."""
        ...

    def download(
        self, key: str, offset_bytes: int = 0, length_bytes: int | None = None
    ) -> Download:
        """One attempt to get the object from an offset on, or at most `length_bytes` of it; its
        iteration contacts the store."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object atomically, replacing what was there."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Upload a local file atomically (multipart where it is large)."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in key order."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object with exactly this key."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        ...


class StoreConfig(BaseModel):
    """How to reach the stores of one key of `stores`. Secrets stand in environment variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#\s]+/?$",
        description="URL of the service, without the bucket "
        "(`https://obs.REGION.myhuaweicloud.com`); none = AWS, or what AWS_ENDPOINT_URL_S3 "
        "says. Required for obs.",
    )
    region: str | None = Field(
        default=None,
        description="Region that requests are signed for; none = the SDK's own configuration.",
    )
    addressing: Literal["auto", "virtual", "path"] = Field(
        default="auto",
        description="Where the bucket stands in a request: in the host (`virtual`) or in the path; "
        "`auto` = virtual for obs, which refuses paths, and the SDK's choice for s3.",
    )
    checksums: Literal["when_required", "when_supported"] = Field(
        default="when_required",
        description="Whether the SDK adds its own checksums to requests; stores other than AWS may "
        "refuse them or store them inside the object (botocore >= 1.36).",
    )
    sign_uploads: bool | None = Field(
        default=None,
        description="Whether the signature covers the bytes of uploads, which costs a SHA-256 of "
        "them; none = over http alone, as TLS protects them too.",
    )
    access_key_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable that holds the access key, or the user's name for https, "
        "ftp and ftps; none = the SDK's own chain (AWS_ACCESS_KEY_ID, profile, role, web "
        "identity), which alone refreshes temporary keys.",
    )
    secret_key_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable that holds the secret key, or the password for https, "
        "ftp and ftps; none = the SDK's own chain.",
    )
    session_token_env: str | None = Field(
        default=None,
        min_length=1,
        description="Environment variable that holds the token of temporary keys; none = no token.",
    )
    downloads: Literal["boto3", "obstore"] = Field(
        default="boto3",
        description="What brings shards from s3 and obs; `obstore` needs that package and is no "
        "faster here (docs/stores.md).",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=20, description="How often one operation is tried before it fails."
    )
    connect_timeout_s: float = Field(
        default=5, gt=0, description="Longest wait for a connection, in seconds."
    )
    read_timeout_s: float = Field(
        default=10, gt=0, description="Longest silence in the middle of an answer, in seconds."
    )

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Self:
        if (self.access_key_env is None) != (self.secret_key_env is None):
            raise ValueError("access_key_env and secret_key_env: expected both or neither")
        if self.session_token_env is not None and self.access_key_env is None:
            raise ValueError(
                "session_token_env: expected access_key_env and secret_key_env with it"
            )
        return self


def split_uri(uri: str) -> tuple[str, str]:
    """`scheme://rest` -> (scheme in lower case, rest); a plain path has the scheme `file`."""
    match = _URI.fullmatch(uri)
    return (match[1].lower(), match[2]) if match else ("file", uri)


def join(uri: str, *keys: str) -> str:
    """The URI of a key under `uri`: parts joined by single slashes, empty parts dropped."""
    rest = [part for part in (key.strip("/") for key in keys) if part]
    root = uri if uri.endswith("://") else uri.removesuffix("/")
    return "/".join([root, *rest]) if rest else uri


def checked_key(key: str, uri: str) -> str:
    """`key` if it stays under the root `uri` on every store, else `StoreError`."""
    parts = key.split("/")
    climbs = key.startswith("/") or any(part in ("", ".", "..") for part in parts)
    temporary = any(part.startswith(TEMPORARY_PREFIX) for part in parts)
    if climbs or temporary or "\\" in key or "\0" in key:
        raise StoreError(
            f"{uri}: {key!r} is not a key: expected names joined by single '/', relative to the "
            f"store's root, without '..', '.', '\\' and names that start with {TEMPORARY_PREFIX!r}"
        )
    return key


def whole_part(data: bytes, uri: str, offset_bytes: int, length_bytes: int) -> bytes:
    """`data`, if it is as long as asked, else `ShortObject`."""
    if len(data) != length_bytes:
        raise ShortObject(
            f"{uri}: the object is shorter than asked: {length_bytes} bytes at {offset_bytes} "
            f"asked, {len(data)} there; pack or upload it again"
        )
    return data


def retried(
    operation: Callable[[], _Result],
    max_attempts: int,
    first_delay_s: float = 0.5,
    longest_delay_s: float = 20.0,
) -> _Result:
    """`operation()`, tried again while it raises `StoreUnavailable`, at most `max_attempts` times.

    Waits uniform(0, min(longest, first * 2^n)) seconds in between ("full jitter"), so that ranks
    which fail together do not come back together.
    """
    for attempt in range(max_attempts - 1):
        try:
            return operation()
        except StoreUnavailable:
            time.sleep(random.uniform(0, min(longest_delay_s, first_delay_s * 2**attempt)))
    return operation()


Opener = Callable[[str, StoreConfig, Mapping[str, str], str], Store]
"""URI, settings, environment with the secrets, and the settings' name for messages -> store."""


def _open_local(
    uri: str, _config: StoreConfig, _environment: Mapping[str, str], _name: str
) -> Store:
    from storage.local import LocalStore

    return LocalStore(uri)


def _open_s3(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Store:
    from storage.s3 import S3Store  # boto3 takes a second to import: only where it is needed

    return S3Store(uri, config, environment, name)


def _open_by_smart_open(
    uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
) -> Store:
    from storage.smart_open_store import SmartOpenStore

    return SmartOpenStore(uri, config, environment, name)


BY_SMART_OPEN = (
    *("http", "https", "webhdfs", "hdfs", "viewfs", "ftp", "ftps", "sftp", "scp", "ssh"),
    *("gs", "gcs", "az", "azure"),
)
"""Schemes whose stores open single objects but cannot list or delete them: good for data and
weights, no place for checkpoints."""

STORES: Mapping[str, Opener] = MappingProxyType(
    {
        "file": _open_local,
        "s3": _open_s3,
        "obs": _open_s3,
        **dict.fromkeys(BY_SMART_OPEN, _open_by_smart_open),
    }
)
"""URI scheme -> how its stores are opened."""


class Stores:
    """Opens URIs, with the job spec's `stores:` (scheme or beginning of URIs -> config) and its
    secrets."""

    def __init__(
        self,
        configs: Mapping[str, StoreConfig] = MappingProxyType({}),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        for key in configs:
            fault = key_fault(key, STORES)
            if fault is not None:
                raise StoreError(fault)
        self.configs = dict(configs)
        self.environment = dict(environment)

    def open(self, uri: str) -> Store:
        """The store at `uri` (`scheme://...` or a plain path), contacted on its first use."""
        scheme, _ = split_uri(uri)
        if scheme not in STORES:
            raise StoreError(
                f"{uri}: there is no store for the scheme {scheme!r} "
                f"(known: {', '.join(sorted(STORES))})"
            )
        key = fitting_key(uri, self.configs)
        config = StoreConfig() if key is None else self.configs[key]
        return STORES[scheme](uri, config, self.environment, settings_name(key or scheme))


def open_store(
    uri: str,
    stores: Mapping[str, StoreConfig] = MappingProxyType({}),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Store:
    """`Stores(stores, environment).open(uri)`, for callers that open one URI."""
    return Stores(stores, environment).open(uri)
