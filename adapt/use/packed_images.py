"""The images of a packed split, read by number from several threads."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from adapt.data.packed.codecs import Pixels
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import packed_splits
from adapt.errors import DataError
from storage.shards.cache import ShardCache
from storage.stores import READ_ONLY, Stores
from storage.uris import split_uri, without_password

_INDEX = "index.npz"


def splits_in(uri: str, stores: Stores) -> list[str]:
    """The packed splits of a folder or a prefix. Raises `StoreError`."""
    scheme, path = split_uri(uri)
    if scheme in READ_ONLY:
        return []
    if scheme == "file":  # without a walk through all images
        manifests = Path(path).expanduser().glob("*/manifest.json")
        return sorted(one.parent.name for one in manifests if one.with_name(_INDEX).is_file())
    store = stores.open(uri)
    return [split for split in packed_splits(store) if store.exists(f"{split}/{_INDEX}")]


class PackedImages:
    """The images of a split at their packed size, in the order of its shards."""

    def __init__(self, split: PackedSplit) -> None:
        self._split, self._shards = split, split.index.shard.tolist()
        self._lock, self._newest = threading.Lock(), -1
        self.keys: list[str] = split.index.keys.tolist()

    @classmethod
    def open(cls, uri: str, name: str | None, stores: Stores, shards_dir: Path) -> "PackedImages":
        """The split of this name, by default the only one that is there; shards are cached in
        `shards_dir`. Raises `DataError` and `StoreError`."""
        if name is None:
            found = splits_in(uri, stores)
            if len(found) != 1:
                raise DataError(
                    f"{without_password(uri)}: expected one packed split, got {', '.join(found)}",
                    f"name one: --split {found[0]}",
                )
            name = found[0]
        return cls(PackedSplit(stores.open(uri), name, ShardCache(shards_dir), None))

    def source(self, number: int) -> str:
        """The shard and the key of an image, for messages."""
        return self._split.name(number)

    def reader(self, number: int) -> Callable[[], Pixels]:
        """The function that reads an image, (H, W, 3) uint8 RGB. It raises as
        `PackedSplit.read`."""
        return partial(self._read, number)

    def _read(self, number: int) -> Pixels:
        self._move_to(self._shards[number])
        return self._split.read(number).pixels()

    def _move_to(self, shard: int) -> None:
        """Fetch this shard and the next; release those that no thread reads any more."""
        with self._lock:
            if shard <= self._newest:
                return
            self._newest = shard
            last = len(self._split.manifest.shards) - 1
            near = [shard, shard + 1, shard - 1]
            self._split.want([one for one in near if 0 <= one <= last])
