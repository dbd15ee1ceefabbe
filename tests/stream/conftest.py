"""An empty store for the tests of streams."""

from pathlib import Path

import pytest

from storage.store import Store
from storage.stores import open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return open_store(str(tmp_path / "packed"))
