"""Fixtures of the storage tests: servers, faults to order, and waits that take no time."""

import time
from collections.abc import Iterator

import pytest

from tests.storage.cloud_servers import *  # noqa: F403
from tests.storage.faults import CannedServer


@pytest.fixture
def canned() -> Iterator[CannedServer]:
    server = CannedServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between our attempts, recorded instead of slept."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited
