"""The client of azure-storage-blob, its credentials, and addresses that are signed for reading."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import requests
from azure.storage.blob import BlobServiceClient, ExponentialRetry, generate_blob_sas

from storage.config import StoreConfig
from storage.credentials import find_keys
from storage.errors import StoreError

CONNECTION_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"
_CONNECTIONS = 32
_SIGNED_FOR = timedelta(hours=1)  # it counts at the request, not for the time of its answer
ONE_REQUEST_BYTES = 32 << 20
PART_BYTES = 16 << 20

logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)
"""It logs all headers of every request at INFO."""


class AzClient(NamedTuple):
    """The SDK's client, and a session for streamed requests."""

    sdk: BlobServiceClient
    session: requests.Session

    def signed(self, container: str, blob_name: str) -> str:
        """The address of a blob with the right to read it."""
        blob = self.sdk.get_blob_client(container, blob_name)
        key = getattr(self.sdk.credential, "account_key", None)
        if key is None:  # the connection string's own signature, or a public container
            return str(blob.url)
        signature = generate_blob_sas(
            str(self.sdk.account_name),
            container,
            blob_name,
            account_key=key,
            permission="r",
            expiry=datetime.now(UTC) + _SIGNED_FOR,
        )
        return f"{blob.url}?{signature}"


def credentials_of(name: str, config: StoreConfig) -> str:
    """Where the credentials come from, for messages."""
    if config.access_key_env is not None:
        return f"the environment variables {config.access_key_env}, {config.secret_key_env}"
    return (
        f"{CONNECTION_VARIABLE} (the storage account's page, Access keys), or "
        f"{name}.access_key_env and .secret_key_env (account name and key)"
    )


def connected(config: StoreConfig, environment: Mapping[str, str], name: str) -> AzClient:
    """A client with the keys that the settings name, or by the connection string. Raises
    `StoreError` where there is neither."""
    options: dict[str, Any] = {
        "retry_policy": ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=0),
        "connection_timeout": config.connect_timeout_s,
        "read_timeout": config.read_timeout_s,
        "max_single_put_size": ONE_REQUEST_BYTES,
        "max_block_size": PART_BYTES,
    }
    session = requests.Session()
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    keys = find_keys(name, config, environment)
    if keys.access_key is not None:
        credential = {"account_name": keys.access_key, "account_key": str(keys.secret_key)}
        address = _address(config, keys.access_key)
        return AzClient(BlobServiceClient(address, credential=credential, **options), session)
    connection = environment.get(CONNECTION_VARIABLE)
    if not connection:
        raise StoreError(f"{name}: no credentials", fix=f"set {credentials_of(name, config)}")
    try:
        sdk = BlobServiceClient.from_connection_string(connection, **options)
    except ValueError as error:
        raise StoreError(
            f"{CONNECTION_VARIABLE}: expected AccountName=...;AccountKey=..., got another text",
            fix="copy it from the storage account's page, Access keys",
        ) from error
    return AzClient(sdk, session)


def _address(config: StoreConfig, account: str) -> str:
    """The account's address; with `addressing: path`, as of emulators, its name stands in the
    path."""
    if config.endpoint_url is None:
        return f"https://{account}.blob.core.windows.net"
    endpoint = config.endpoint_url.rstrip("/")
    return f"{endpoint}/{account}" if config.addressing == "path" else endpoint
