"""The table of stores: URI scheme -> opener. Only this file imports the rows."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from storage.config import StoreConfig, fitting_key, key_fault, settings_name
from storage.errors import StoreError
from storage.store import Store
from storage.uris import split_uri

READ_ONLY = ("http", "https")
"""Schemes whose stores neither list nor write nor delete: for data and weights, not for
checkpoints."""

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


STORES: Mapping[str, Opener] = MappingProxyType(
    {
        "file": _open_local,
        "s3": _open_s3,
        "obs": _open_s3,
        **dict.fromkeys(("gs", "gcs"), _open_gs),
        **dict.fromkeys(("az", "azure"), _open_az),
        **dict.fromkeys(READ_ONLY, _open_web),
    }
)
"""URI scheme -> opener."""


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
        self.configs = dict(configs)
        self.environment = dict(environment)

    def open(self, uri: str) -> Store:
        """The store at `uri` (`scheme://...` or a plain path), contacted on its first use."""
        scheme, _ = split_uri(uri)
        if scheme not in STORES:
            raise StoreError(
                f"{uri}: expected a known scheme, got {scheme!r} "
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
