"""Fixtures of the web server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.web_server import WebServer, make_certificate


@pytest.fixture
def http_server() -> Iterator[WebServer]:
    """A web server."""
    server = WebServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of this machine's address."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def https_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server whose certificate is trusted."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.with_name("cert.pem")))
    server = WebServer(certificate)
    yield server
    server.close()
