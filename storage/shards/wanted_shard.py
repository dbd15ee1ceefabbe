"""One shard as its manifest describes it, and how bytes at hand differ from that."""

from pathlib import Path
from typing import NamedTuple

from storage.errors import StoreError
from storage.shards.damage import advice
from storage.shards.shards import xxh3_of
from storage.store import Store
from storage.uris import join


class WantedShard(NamedTuple):
    """The shard's place in its store, its exact size, and its xxh3-64 in hex."""

    store: Store
    key: str
    size_bytes: int
    xxh3: str

    @property
    def uri(self) -> str:
        """The shard's URI, for messages."""
        return join(self.store.uri, self.key)

    def fault_of(self, path: Path) -> str | None:
        """The fault of the bytes at `path`, or None; the size is compared first."""
        size_bytes = path.stat().st_size
        if size_bytes != self.size_bytes:
            return f"expected {self.size_bytes} bytes, got {size_bytes}"
        found = xxh3_of(path)
        return None if found == self.xxh3 else f"expected xxh3 {self.xxh3}, got {found}"

    def damaged(self, fault: str, stored_so: bool | None = True) -> StoreError:
        """The error of a shard with this fault; `stored_so` as `is_stored_so`."""
        return StoreError(
            f"{self.uri}: truncated or damaged shard: {fault}",
            fix=advice(stored_so, "pack or upload this dataset again"),
        )
