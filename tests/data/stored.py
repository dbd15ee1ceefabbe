"""The objects of a store: read for comparisons, and a manifest edited by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.store import Store

MakeRaw = Callable[..., Path]


def objects(store: Store) -> dict[str, bytes]:
    """Every object's bytes."""
    return {entry.key: store.get(entry.key) for entry in store.list()}


def edit(store: Store, **values: Any) -> None:
    """Replace values of the manifest of split `train`."""
    content = json.loads(store.get("train/manifest.json"))
    store.put("train/manifest.json", json.dumps(content | values).encode())
