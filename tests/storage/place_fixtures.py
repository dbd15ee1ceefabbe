"""Fixtures of the servers and programs in `places`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.places import HDFS, FtpServer, WebServer, make_certificate


@pytest.fixture
def http_server() -> Iterator[WebServer]:
    """A web server, which also speaks WebHDFS."""
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


@pytest.fixture
def ftp_server() -> Iterator[FtpServer]:
    """An FTP server that lets everybody in."""
    server = FtpServer()
    yield server
    server.close()


@pytest.fixture
def hdfs_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `hdfs` on the path, over the folder that is returned."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "hdfs"
    program.write_text(HDFS)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setenv("HDFS_ROOT", str(tmp_path / "hadoop"))
    return tmp_path / "hadoop"
