"""The message of a store that refuses."""

import time

import pytest

from storage.errors import MissingObject, StoreError, StoreUnavailable
from storage.store import Store


def refusal_of(store: Store) -> str:
    """The message of a refused read, which comes immediately."""
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        store.get("k")
    assert time.monotonic() - started < 15  # a busy machine; a retry would wait longer
    assert not isinstance(caught.value, MissingObject | StoreUnavailable)
    return str(caught.value)
