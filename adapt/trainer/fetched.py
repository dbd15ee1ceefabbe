"""A file of a store on the local disk, for as long as it is read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.stores import Stores


@contextmanager
def fetched(stores: Stores, uri: str) -> Iterator[Path]:
    """A file of weights on the local disk within the context."""
    address, mark, query = uri.partition("?")  # of a presigned URL
    root, _, name = address.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="segadapt-weights-") as folder:
        path = Path(folder) / name
        stores.open(root or ".").get_file(name + mark + query, path)
        yield path
