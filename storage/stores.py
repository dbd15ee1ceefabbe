"""The table of stores: URI scheme -> how its stores are opened. Only this file imports the rows."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from storage.config import StoreConfig, fitting_key, key_fault, settings_name
from storage.errors import StoreError
from storage.store import Store
from storage.uris import split_uri

Opener = Callable[[str, StoreConfig, Mapping[str, str], str], Store]
"""URI, settings, environment with the secrets, and the settings' name for messages -> store."""


def _open_local(
    uri: str, _config: StoreConfig, _environment: Mapping[str, str], _name: str
) -> Store:
    from storage.local import LocalStore

    return LocalStore(uri)


def _open_s3(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Store:
    from storage.s3.store import S3Store  # boto3 takes a second to import: only where it is needed

    return S3Store(uri, config, environment, name)


def _open_by_smart_open(
    uri: str, config: StoreConfig, environment: Mapping[str, str], name: str
) -> Store:
    from storage.smart_open.store import SmartOpenStore

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
