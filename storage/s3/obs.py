"""Huawei OBS, recognised by its URI or its endpoint. Unlike other S3 stores it refuses the bucket's
name in the path, and so buckets with dots over https.
"""

from urllib.parse import urlsplit

from storage.config import StoreConfig
from storage.errors import StoreError

_DOMAINS = (".myhuaweicloud.com", ".myhuaweicloud.cn", ".myhuaweicloud.eu")


def is_obs(scheme: str, config: StoreConfig) -> bool:
    """Return whether the rules of OBS hold: for `obs://`, and for `s3://` at an endpoint of OBS."""
    return scheme == "obs" or _at_huawei(config)


def check_obs(uri: str, bucket: str, config: StoreConfig, name: str) -> None:
    """Raise `StoreError` for settings that OBS refuses; `name` is their name in messages."""
    if "." in bucket:
        raise StoreError(
            f"{uri}: expected a bucket without dots, got {bucket!r}: OBS needs it in the host "
            "name, where a dot breaks https",
            fix="copy the data into a bucket without dots",
        )
    if config.endpoint_url is None:
        raise StoreError(
            f"{uri}: {name}.endpoint_url: missing, expected the endpoint of OBS",
            fix="set it to https://obs.REGION.myhuaweicloud.com",
        )
    if not _at_huawei(config):
        return
    if config.addressing == "path":
        raise StoreError(
            f"{uri}: {name}.addressing: expected virtual, which OBS alone accepts, got path",
            fix=f"set {name}.addressing: virtual",
        )
    if _host(config).startswith(f"{bucket}."):
        raise StoreError(
            f"{uri}: {name}.endpoint_url: expected https://obs.REGION.myhuaweicloud.com without "
            f"the bucket, got {config.endpoint_url!r}",
            fix="remove the bucket from it",
        )


def _at_huawei(config: StoreConfig) -> bool:
    return _host(config).endswith(_DOMAINS)


def _host(config: StoreConfig) -> str:
    return (urlsplit(config.endpoint_url or "").hostname or "").rstrip(".")
