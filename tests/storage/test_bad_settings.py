"""Settings as people have them: blanks around keys, endpoints without a scheme, files that are no
keys, names that are no UTF-8. Each is right or has a message; none is a traceback."""

import json
import os
from pathlib import Path

import pytest

from adapt.errors import JobError
from adapt.platforms.local_stack import S3Server
from adapt.spec.loading import load_spec
from storage.config import StoreConfig
from storage.errors import StoreError
from storage.stores import Stores, open_store
from tests.servers import stores_of
from tests.storage.cloud_servers import ACCOUNT, CloudServer
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import WebServer

ENDS = ["\n", "\r\n", " ", "\t \n"]


@pytest.mark.parametrize("end", ENDS)
def test_blanks_around_keys_in_named_variables_are_no_part_of_them(
    s3_server: S3Server, s3_uri: str, end: str
) -> None:
    stores = stores_of(s3_server)
    stores.environment |= {key: f"{value}{end}" for key, value in stores.environment.items()}
    store = stores.open(s3_uri)
    store.put("k", b"1")
    assert store.get("k") == b"1"


def test_blanks_around_the_sdks_own_keys_are_no_part_of_them(
    s3_server: S3Server, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, f"{value}\n" if "KEY" in name else value)
    store = Stores().open(s3_uri)
    store.put("k", b"1")
    assert store.get("k") == b"1"


@pytest.mark.parametrize("end", ENDS)
def test_blanks_around_an_accounts_name_and_key_are_no_part_of_them(
    az_server: CloudServer, end: str
) -> None:
    stores = az_server.stores()
    stores.environment |= {key: f"{value}{end}" for key, value in stores.environment.items()}
    assert not stores.open("az://tests/data").exists("k")


def test_a_password_of_a_web_server_may_end_in_a_blank_but_not_in_a_line_end(
    http_server: WebServer,
) -> None:
    http_server.files["/data/k"] = b"1"
    http_server.login = "me:with a blank "
    config = StoreConfig(access_key_env="U", secret_key_env="P")
    stores = Stores({"http": config}, {"U": "me", "P": "with a blank \n"})
    assert stores.open(f"{http_server.url}/data").get("k") == b"1"


@pytest.mark.parametrize("value", ["two words", "a\nb", "schlüssel", " \n"])
@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_a_variable_that_cannot_be_a_key_is_named_and_not_shown(scheme: str, value: str) -> None:
    config = StoreConfig(access_key_env="A", secret_key_env="B")
    with pytest.raises(StoreError) as caught:
        Stores({scheme: config}, {"A": "a", "B": value}).open(f"{scheme}://bucket").get("k")
    start = f"stores.{scheme}.secret_key_env: expected a key in the environment variable 'B'"
    assert caught.value.problem.startswith(start)
    assert value.strip() == "" or value not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("value", ["minio:9000", "//minio", "https://minio\n", "https://a b", "s3"])
def test_an_endpoint_without_a_scheme_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = rf"{variable}: expected https://HOST or http://HOST:PORT, got "
    environment = {variable: value}
    with pytest.raises(StoreError, match=message) as caught:
        Stores({}, environment).open("s3://bucket/data")
    assert repr(value) in caught.value.problem
    for uri in ("s3://bucket/spec.yaml", "obs://bucket/spec.yaml"):
        with pytest.raises(StoreError, match=message):
            load_spec(uri, (), environment)
    if "\n" not in value:
        monkeypatch.setenv(variable, value)  # seen by the SDK alone
        with pytest.raises(StoreError, match=r"s3://bucket/k: "):
            Stores().open("s3://bucket").get("k")


def test_an_endpoint_of_obs_with_a_path_is_named() -> None:
    environment = {"AWS_ENDPOINT_URL_S3": "https://obs.example/bucket"}
    with pytest.raises(JobError, match=r"AWS_ENDPOINT_URL_S3: expected https://HOST without a pa"):
        load_spec("obs://bucket/spec.yaml", (), environment)


def test_a_key_of_an_account_that_is_no_base64_is_named(az_server: CloudServer) -> None:
    config = az_server.stores().configs["az"]
    names = {str(config.access_key_env): ACCOUNT, str(config.secret_key_env): "abcde"}
    for call in ("get", "exists"):
        with pytest.raises(StoreError, match=r"az://tests/k: .*(cannot be used|access denied)"):
            getattr(Stores({"az": config}, names).open("az://tests"), call)("k")


SERVICE = {
    "type": "service_account",
    "client_email": "a@b",
    "token_uri": "https://x",
    "project": "",
}


@pytest.mark.parametrize(
    "text", ["", "no json", "{}", "[1]", json.dumps({**SERVICE, "private_key": "none"}), "\0"]
)
def test_a_file_that_is_no_service_account_is_named(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "account.json").write_text(text)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(StoreError, match=r"gs://bucket/k: .*GOOGLE_APPLICATION_CREDENTIALS"):
        Stores().open("gs://bucket").get("k")


@pytest.mark.parametrize("uri", ["~nobody-of-that-name/x", "a\0b", "/data/\0", "/" + "x" * 5000])
def test_a_path_that_cannot_be_is_named(uri: str) -> None:
    with pytest.raises(StoreError):
        open_store(uri).get("k")


def test_names_that_are_no_utf_8_are_listed_and_deleted(tmp_path: Path) -> None:
    names = [b"a", b"a\xff", b"\xe9", "é".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"1")
    store = open_store(str(tmp_path))
    listed = [info.key for info in store.list()]
    assert sorted(map(os.fsencode, listed)) == sorted(names)
    for key in listed:
        store.delete(key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri", ["https://[::1/x", "https://host:port/x", "http://host:99999999/x", "https://a..b/x"]
)
def test_a_web_address_that_cannot_be_is_named(uri: str, waits: list[float]) -> None:
    with pytest.raises(StoreError, match=r"/x/k: "):
        open_store(uri).get("k")
