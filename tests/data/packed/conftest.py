"""A packed split that tests may damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.data.writing.pack import pack
from storage.store import Store


@pytest.fixture
def packed(make_raw: Callable[..., Path], store: Store) -> Store:
    """A store with a packed split `train` of five samples in several shards."""
    pack("cityscapes", make_raw("cityscapes", 5), store, "train", shard_bytes=2_000, workers=1)
    return store
