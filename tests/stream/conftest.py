"""An empty store, and a packed split behind a proxy that makes faults, for the tests of streams."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from adapt.data.writing.pack import pack
from adapt.platforms.local_stack import S3Server
from storage.store import Store
from storage.stores import open_store
from tests.conftest import write_raw_folders
from tests.servers import BUCKET, stores_of
from tests.storage.faults import FaultProxy
from tests.stream.fault_bed import NUM_SAMPLES, SIZE_HW, Bed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return open_store(str(tmp_path / "packed"))


@pytest.fixture(scope="module")
def packed_uri(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A labelled split of ten shards or so in the S3 server."""
    raw_dir = tmp_path_factory.mktemp("raw")
    write_raw_folders(raw_dir, NUM_SAMPLES, seed=2, size_hw=SIZE_HW)
    uri = f"s3://{BUCKET}/{uuid4().hex}"
    pack(
        "folders",
        raw_dir,
        stores_of(s3_server).open(uri),
        "train",
        name="tiny",
        shard_bytes=120_000,
    )
    return uri


@pytest.fixture
def bed(
    s3_server: S3Server, packed_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bed]:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    proxy = FaultProxy(s3_server.endpoint_url)
    yield Bed(s3_server, packed_uri, proxy, tmp_path)
    proxy.close()
