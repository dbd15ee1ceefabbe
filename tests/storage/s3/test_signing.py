"""Whether uploads are signed."""

import hashlib
import os
from pathlib import Path

import pytest

from storage.config import StoreConfig
from storage.stores import Stores
from tests.storage.web_fixtures import *  # noqa: F403
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer

DATA = os.urandom(1 << 20)


@pytest.mark.parametrize(
    ("scheme", "sign_uploads", "signed"),
    [
        ("https", None, False),
        ("https", True, True),
        ("http", None, True),
        ("http", False, False),
    ],
)
def test_uploads_are_signed_where_tls_does_not_protect_them(
    https_server: WebServer,
    http_server: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    sign_uploads: bool | None,
    signed: bool,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", os.environ["REQUESTS_CA_BUNDLE"])
    server = {"https": https_server, "http": http_server}[scheme]
    config = StoreConfig(
        endpoint_url=server.url,
        region="us-east-1",
        addressing="path",
        access_key_env="KEY",
        secret_key_env="SECRET",
        sign_uploads=sign_uploads,
    )
    server.answers.append(WebAnswer(200))
    keys = {"KEY": "key", "SECRET": "secret"}
    Stores({"s3": config}, keys).open("s3://bucket/runs").put("k", DATA)
    expected = hashlib.sha256(DATA).hexdigest() if signed else "UNSIGNED-PAYLOAD"
    assert server.requests[-1].headers["x-amz-content-sha256"] == expected


def test_an_aws_config_file_says_whether_uploads_are_signed(
    https_server: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ns3 =\n  payload_signing_enabled = true\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_CA_BUNDLE", os.environ["REQUESTS_CA_BUNDLE"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    config = StoreConfig(endpoint_url=https_server.url, region="us-east-1", addressing="path")
    https_server.answers.append(WebAnswer(200))
    Stores({"s3": config}, {}).open("s3://bucket/runs").put("k", DATA)
    found = https_server.requests[-1].headers["x-amz-content-sha256"]
    assert found == hashlib.sha256(DATA).hexdigest()
