"""The table of stores: URI scheme -> how it is opened, its URIs, its settings. Only this file
imports the rows.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from types import MappingProxyType
from typing import NamedTuple

from storage.config import StoreConfig, fitting_key, key_fault, settings_name
from storage.errors import StoreError
from storage.store import Store
from storage.uris import split_uri, without_password

READ_ONLY = ("http", "https")
"""Schemes whose stores neither list nor write nor delete: for data and weights, not for
checkpoints."""

_REQUESTS = ("max_attempts", "connect_timeout_s", "read_timeout_s")
_KEYS = ("access_key_env", "secret_key_env")

Opener = Callable[[str, StoreConfig, Mapping[str, str], str], Store]
"""URI, settings, environment with the secrets, and the settings' name for messages -> store."""


def _open_local(
    uri: str, _config: StoreConfig, _environment: Mapping[str, str], _name: str
) -> Store:
    from storage.local import LocalStore

    return LocalStore(uri)


def _open_s3(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Store:
    from storage.s3.store import S3Store  # importing boto3 takes a second

    return S3Store(uri, config, environment, name)


def _open_web(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Store:
    from storage.smart_open.store import open_web

    return open_web(uri, config, environment, name)


def _open_gs(uri: str, config: StoreConfig, _environment: Mapping[str, str], name: str) -> Store:
    with _package("gs"):
        from storage.gs.store import open_gs
    return open_gs(uri, config, name)


def _open_az(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Store:
    with _package("az"):
        from storage.az.store import open_az
    return open_az(uri, config, environment, name)


@contextmanager
def _package(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise StoreError(
            f"{extra}://: expected the package {error.name}, got none installed",
            fix=f"pip install 'segadapt[{extra}]'",
        ) from error


class StoreRow(NamedTuple):
    """How a store is opened, what its URIs look like, the settings that it knows and needs."""

    open: Opener
    form: str
    settings: tuple[str, ...]
    required: tuple[str, ...] = ()


_GS = StoreRow(_open_gs, "gs://BUCKET/PREFIX", ("endpoint_url", *_REQUESTS))
_AZ = StoreRow(
    _open_az, "az://CONTAINER/PREFIX", ("endpoint_url", "addressing", *_KEYS, *_REQUESTS)
)
_ALL = tuple(StoreConfig.model_fields)

STORES: Mapping[str, StoreRow] = MappingProxyType(
    {
        "file": StoreRow(_open_local, "file:///FOLDER", ()),
        "s3": StoreRow(_open_s3, "s3://BUCKET/PREFIX", _ALL),
        "obs": StoreRow(_open_s3, "obs://BUCKET/PREFIX", _ALL, ("endpoint_url",)),
        "gs": _GS,
        "gcs": _GS._replace(form="gcs://BUCKET/PREFIX"),
        "az": _AZ,
        "azure": _AZ._replace(form="azure://CONTAINER/PREFIX"),
        **{
            scheme: StoreRow(_open_web, f"{scheme}://HOST/PATH", (*_KEYS, *_REQUESTS))
            for scheme in READ_ONLY
        },
    }
)
"""URI scheme -> its store."""


def settings_fault(key: str, config: StoreConfig) -> tuple[str, str] | None:
    """Problem and fix of the first setting under a key of `stores` that its store would ignore;
    None where there is none. A setting at its default counts as absent."""
    scheme = key.partition("://")[0]
    known = STORES[scheme].settings
    for name, field in StoreConfig.model_fields.items():
        if name not in known and getattr(config, name) != field.default:
            problem = f"expected none, as {scheme} knows no such setting, got one"
            listed = ", ".join(sorted(known)) or "none"
            return f"{settings_name(key)}.{name}: {problem} (known: {listed})", "remove it"
    return None


def uri_fault(uri: str) -> tuple[str, str] | None:
    """Problem and fix of a URI that no store can have, as `expected ..., got ...`; None for others.
    It does not look into the store."""
    scheme, rest = split_uri(uri)
    if scheme not in STORES:
        known = ", ".join(sorted(STORES))
        close = get_close_matches(scheme, STORES, n=1, cutoff=0.5)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        return f"expected a known scheme, got {scheme!r}{guess} (known: {known})", ""
    one_slash = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri) if rest == uri else None
    if one_slash and one_slash[1].lower() in STORES:
        form = STORES[one_slash[1].lower()].form
        return f"expected {form}, got no :// after {one_slash[1]}", f"write {form}"
    if rest == uri or _has_root(scheme, rest):
        return None
    form = STORES[scheme].form
    return f"expected {form}, got {without_password(uri)!r}", f"write {form}"


def _has_root(scheme: str, rest: str) -> bool:
    """Return whether a bucket, container or host follows `://`, or a slash where it is a folder."""
    if scheme == "file":
        return rest.startswith("/")
    return bool(re.split(r"[/?]", rest)[0].rpartition("@")[2])


class Stores:
    """Opens URIs with the job spec's `stores:` (scheme or beginning of URIs -> config) and its
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
        for key, config in configs.items():
            useless = settings_fault(key, config)
            if useless is not None:
                raise StoreError(*useless)
        self.configs = dict(configs)
        self.environment = dict(environment)

    def missing(self, uri: str) -> str | None:
        """The name of a setting that the store at `uri` needs and does not have, as
        `stores.obs.endpoint_url`; None where there is none."""
        scheme, _ = split_uri(uri)
        key = fitting_key(uri, self.configs) or scheme
        config = self.configs.get(key, StoreConfig())
        required = STORES[scheme].required if scheme in STORES else ()
        unset = [name for name in required if getattr(config, name) is None]
        return f"{settings_name(key)}.{unset[0]}" if unset else None

    def open(self, uri: str) -> Store:
        """The store at `uri` (`scheme://...` or a plain path), contacted on its first use."""
        fault = uri_fault(uri)
        if fault is not None:
            raise StoreError(f"{without_password(uri)}: {fault[0]}", fix=fault[1])
        scheme, _ = split_uri(uri)
        key = fitting_key(uri, self.configs)
        config = StoreConfig() if key is None else self.configs[key]
        return STORES[scheme].open(uri, config, self.environment, settings_name(key or scheme))


def open_store(
    uri: str,
    stores: Mapping[str, StoreConfig] = MappingProxyType({}),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Store:
    """`Stores(stores, environment).open(uri)`, for callers that open one URI."""
    return Stores(stores, environment).open(uri)
