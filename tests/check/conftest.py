"""Packed data to check: in the S3 server, damaged, on the web."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapt.platforms.local_stack import S3Server
from tests.conftest import pack_tiny
from tests.servers import BUCKET, stores_of
from tests.storage.web_server import WebServer


@pytest.fixture(scope="session")
def packed_s3(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny dataset in the S3 server; its URI."""
    uri = f"s3://{BUCKET}/checked"
    pack_tiny(tmp_path_factory.mktemp("raw"), stores_of(s3_server).open(uri))
    return uri


@pytest.fixture
def damaged(tiny_uri: str, tmp_path: Path) -> Path:
    """A copy of the tiny dataset, to be damaged."""
    return Path(shutil.copytree(tiny_uri, tmp_path / "packed"))


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()
