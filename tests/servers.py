"""Session fixtures: one real S3 server and one real MLflow server, started by the first test that
asks.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from adapt.platforms.local_stack import S3Server, free_ports, mlflow_server, seaweedfs
from storage.config import StoreConfig
from storage.stores import Stores
from tests.storage.faults import FaultProxy

BUCKET = "tests"
DOMAIN_NAME = "s3.localhost"
"""Buckets are also reached as subdomains of this host (virtual addressing)."""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running SeaweedFS with the bucket `BUCKET`."""
    with seaweedfs(tmp_path_factory.mktemp("s3"), DOMAIN_NAME) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking URI of a running MLflow server."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as tracking_uri:
        yield tracking_uri


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tracking URI of a database file that is not there yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('a folder')}/new/mlflow.db"


@pytest.fixture
def absent_uri() -> str:
    """An address that refuses connections."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the S3 server, which does as it is told."""
    proxy = FaultProxy(s3_server.endpoint_url)
    yield proxy
    proxy.close()


@pytest.fixture
def s3_stores(s3_server: S3Server) -> Stores:
    """`Stores` that reach the S3 server as `s3://` and as `obs://`."""
    return stores_of(s3_server)


@pytest.fixture
def s3_uri() -> str:
    """A fresh prefix in the bucket of the S3 server."""
    return f"s3://{BUCKET}/{uuid4().hex}"


def stores_of(server: S3Server, **changes: object) -> Stores:
    """`Stores` for a server; `changes` replace fields of the `StoreConfig` of both schemes."""
    fields: dict[str, object] = {
        "endpoint_url": server.endpoint_url,
        "region": "us-east-1",
        "access_key_env": "TEST_ACCESS_KEY",
        "secret_key_env": "TEST_SECRET_KEY",
    }
    config = StoreConfig.model_validate(fields | changes)
    environment = {"TEST_ACCESS_KEY": server.access_key, "TEST_SECRET_KEY": server.secret_key}
    return Stores({"s3": config, "obs": config}, environment)
