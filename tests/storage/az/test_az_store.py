"""Azure Blob Storage: keys, connection strings, signed addresses that stand in no message."""

import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from azure.storage.blob import generate_container_sas

from storage.config import StoreConfig
from storage.errors import StoreError
from storage.stores import Stores
from tests.servers import BUCKET
from tests.storage.broken_answers import Answer
from tests.storage.cloud_servers import ACCOUNT, ACCOUNT_KEY, CloudServer
from tests.storage.faults import FaultProxy

SECRET = "hush"
KEYS = {"access_key_env": "A", "secret_key_env": "B"}
VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"


@pytest.fixture
def uri() -> str:
    return f"az://{BUCKET}/{uuid4().hex}"


def connection(server: CloudServer, secret: str = f"AccountName={ACCOUNT};AccountKey=") -> str:
    key = ACCOUNT_KEY if secret.endswith("AccountKey=") else ""
    return f"{secret}{key};BlobEndpoint={server.endpoint_url}/{ACCOUNT};"


@pytest.mark.slow
def test_a_connection_string_holds_the_credentials(az_server: CloudServer, uri: str) -> None:
    store = Stores({}, {VARIABLE: connection(az_server)}).open(uri)
    store.put("k", b"123")
    assert store.get_range("k", 1, 2) == b"23"


@pytest.mark.slow
def test_a_connection_string_may_hold_a_signature(az_server: CloudServer, uri: str) -> None:
    az_server.stores().open(uri).put("k", b"123")
    signature = generate_container_sas(
        ACCOUNT, BUCKET, ACCOUNT_KEY, permission="rl", expiry=datetime.now(UTC) + timedelta(hours=1)
    )
    secret = f"SharedAccessSignature={signature}"
    store = Stores({}, {VARIABLE: connection(az_server, secret)}).open(uri)
    assert store.get("k") == b"123"
    assert [info.key for info in store.list()] == ["k"]
    with pytest.raises(
        StoreError, match=r"/new: access denied \(403 Auth.*credentials from AZURE_"
    ):
        store.put("new", b"1")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["get", "put", "list"])
def test_wrong_keys_are_refused(az_server: CloudServer, uri: str, call: str) -> None:
    config = StoreConfig(
        endpoint_url=az_server.endpoint_url,
        addressing="path",
        access_key_env="NAME",
        secret_key_env="KEY",
    )
    stores = Stores({"az": config}, {"NAME": ACCOUNT, "KEY": "d3Jvbmc="})
    store = stores.open(uri)
    calls = {"get": lambda: store.get("k"), "put": lambda: store.put("k", b"")}
    message = r"access denied \(403 Auth\w+\) with the credentials from .* variables NAME, KEY"
    with pytest.raises(StoreError, match=message):
        calls.get(call, lambda: list(store.list()))()


def test_a_machine_without_credentials_is_named() -> None:
    with pytest.raises(StoreError) as caught:
        Stores().open("az://container/data").get("k")
    assert caught.value.problem == "stores.az: no credentials"
    assert caught.value.fix.startswith(f"set {VARIABLE} (the storage account's page, Access keys)")


def test_a_malformed_connection_string_is_named() -> None:
    with pytest.raises(
        StoreError, match=rf"{VARIABLE}: expected AccountName=.*Fix: copy"
    ) as caught:
        Stores({}, {VARIABLE: SECRET}).open("az://container/data").get("k")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("field", ["region", "session_token_env"])
def test_a_setting_without_meaning_is_refused(field: str) -> None:
    config = StoreConfig(**KEYS, **{field: "A"})  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=rf"stores.az.{field}: expected none, as az knows no such"):
        Stores({"az": config}, {"A": "a", "B": "b"}).open("az://container")


def test_signatures_stand_in_no_message(
    az_server: CloudServer, absent_uri: str, uri: str, waits: list[float]
) -> None:
    proxy = FaultProxy(az_server.endpoint_url)
    answering = az_server._replace(endpoint_url=proxy.endpoint_url).stores().open(uri)
    proxy.order(Answer(418))
    silent = az_server._replace(endpoint_url=absent_uri).stores().open(uri)
    for store in (answering, silent):
        with pytest.raises(StoreError) as caught:
            store.get("k")
        text = "".join(traceback.format_exception(caught.value))
        assert "sig=" not in text and "se=" not in text and "/k: the store" in text
    proxy.close()


@pytest.mark.slow
def test_large_files_are_uploaded_in_blocks_of_which_one_may_fail(
    az_server: CloudServer, uri: str, tmp_path: Path
) -> None:
    proxy = FaultProxy(az_server.endpoint_url)
    store = az_server._replace(endpoint_url=proxy.endpoint_url).stores().open(uri)
    data = bytes(1 << 20) * 40 + b"end"
    (tmp_path / "large").write_bytes(data)
    proxy.order(Answer(503), "comp=block&", method="PUT")
    store.put_file("large", tmp_path / "large")
    puts = [one.path for one in proxy.requests if one.method == "PUT"]
    assert sum("comp=block&" in path for path in puts) == 3 + 1, "three blocks, one of them again"
    assert az_server.stores().open(uri).get("large") == data
    proxy.close()
