"""One packed split of a dataset, opened for reading: sample index -> decoded image and train ids.

Shards are fetched whole, ahead of need where told to, and read by offset; the index says where each
sample stands, so no tar is parsed. Where any sample may be wanted at any time and the node's cache
is full, single samples are fetched instead, each checked against the index. Threads may read side
by side.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from pydantic import Field

from adapt.batch import Sample
from adapt.config.section import Section
from adapt.data.label_maps import train_ids_of
from adapt.data.packed.codecs import decode_image, decode_label, resize_image
from adapt.data.packed.split_files import read_manifest
from adapt.data.packed.subset import only_keys
from adapt.errors import DataError
from storage.shards.cache import ShardCache
from storage.shards.shards import OpenShard
from storage.store import Store

FETCHES_IN_FLIGHT = 4


class SplitConfig(Section):
    """One packed split of a dataset, as a job spec names it."""

    dataset: str = Field(
        description="Its name in label maps: a row of DATASETS, or the name it was packed under."
    )
    uri: str = Field(description="Place of its packed form: file path or URI of a store.")
    split: str = Field("train", description="Name of the split.")
    size_hw: tuple[int, int] | None = Field(
        None,
        description="Height and width of the images in pixels: the packed size, or any where the "
        "shards hold originals.",
    )


class PackedSplit:
    """Random access to the samples of one split.

    `id_table` (256,) uint8 maps the dataset's ids to train ids; None leaves the labels unread, as
    for a target domain. `size_hw` is the size at which the images are wanted: what the shards hold,
    or, where they hold the original bytes, resized as they are read; labels always stay at their
    own size. With `keys` the split has these samples alone. `random_access` is for readers that
    want any sample at any time. Raises `DataError` where manifest and arguments disagree.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        cache: ShardCache,
        id_table: np.ndarray | None,
        size_hw: tuple[int, int] | None = None,
        keys: Sequence[str] | None = None,
    ) -> None:
        self.manifest, self.index = read_manifest(store, split)
        self._cached_under = self.manifest.dataset_id
        self.store, self.split, self.cache = store, split, cache
        if keys is not None:
            self.manifest, self.index = only_keys(self.manifest, self.index, keys, self.uri)
        labelled_ids = id_table is not None and self.manifest.label_space is not None
        self.id_table = self.manifest.own_table() if labelled_ids else id_table
        self.size_hw = size_hw
        if id_table is not None and not self.manifest.labelled:
            raise DataError(
                f"{self.uri}: expected labels, got a split packed without",
                fix="pack it again with its labels (--overwrite)",
            )
        packed_hw = self.manifest.size_hw
        resizable = self.manifest.encoding.resized_when_read or size_hw is None
        if not resizable and packed_hw is not None and tuple(packed_hw) != tuple(size_hw or ()):
            raise DataError(
                f"{self.uri}: expected size_hw {list(packed_hw)} as packed, got "
                f"{list(size_hw or ())}",
                fix="set size_hw to the packed size, or pack again (--size-hw, or --original to "
                "resize when reading)",
            )
        self._train_ids = train_ids_of(self.id_table, self.manifest.ids)
        self.random_access = self._closed = False
        self._sizes_bytes = [shard.size_bytes for shard in self.manifest.shards]
        self._pool = ThreadPoolExecutor(FETCHES_IN_FLIGHT, thread_name_prefix="fetch")
        self._shards: dict[int, Future[OpenShard | None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.manifest.num_samples

    @property
    def uri(self) -> str:
        """The split's place, for messages."""
        return f"{self.store.uri}/{self.split}"

    @property
    def dataset_id(self) -> str:
        """As `Manifest.dataset_id`."""
        return self.manifest.dataset_id

    @property
    def parts(self) -> "tuple[PackedSplit, ...]":
        """Itself alone: what a `Mixture` has several of."""
        return (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the draws of each part."""
        return (1.0,)

    def part_of(self, sample: int) -> int:  # noqa: ARG002, there is one
        """The number of the part that the sample is of."""
        return 0

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of samples of each shard."""
        return tuple(shard.num_samples for shard in self.manifest.shards)

    def label_pixels(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Pixels of each class in each sample's label, (N, K) int64, from the index alone.

        Ignored pixels are in no column. Raises `DataError` where the split was opened without
        labels.
        """
        if self.id_table is None:
            raise DataError(
                f"{self.uri}: expected labels, whose pixels are counted, got a split opened without"
            )
        train_ids = self.id_table[list(self.manifest.ids)]
        is_class = train_ids[:, None] == np.arange(num_classes)
        return self.index.id_pixels.astype(np.int64) @ is_class

    def want(self, shards: Sequence[int], side_by_side: int = 1) -> None:
        """Fetch these shards in this order, and release all others.

        The first `side_by_side` are fetched in any case; more, while memory has room for them,
        should the disk have none for any that is on its way.
        """
        wanted = dict.fromkeys(shards)
        sizes_bytes = self._sizes_bytes
        with self._lock:
            for shard in self._shards.keys() - wanted.keys():
                self._shards.pop(shard).cancel()
            coming = [shard for shard, future in self._shards.items() if not future.done()]
            room_bytes = self.cache.memory_bytes - self.cache.buffered_bytes
            room_bytes -= sum(sizes_bytes[shard] for shard in coming)
            for position, shard in enumerate(wanted):
                if shard not in self._shards:
                    room_bytes -= sizes_bytes[shard]
                    if position >= side_by_side and room_bytes < 0:
                        break
                    self._opened(shard)

    def read(self, sample: int) -> Sample:
        """Decode one sample: image (3, H, W) uint8 RGB, labels (H, W) uint8 train ids or None.

        Raises `StoreError` where its bytes cannot be had, `DataError` where they do not decode or
        have another size than the index says.
        """
        row, name = self.index, self.name(sample)
        image_bytes, label_bytes = self._bytes(sample)
        indexed_hw = (int(row.height_px[sample]), int(row.width_px[sample]))
        image = decode_image(image_bytes, str(row.suffix[sample]), name, indexed_hw)
        if self.size_hw is not None and image.shape[:2] != tuple(self.size_hw):
            image = resize_image(image, self.size_hw)
        labels = None
        if self.id_table is not None:
            ids = decode_label(label_bytes, *indexed_hw, name)
            labels = torch.from_numpy(self._train_ids(ids))
        return Sample(torch.from_numpy(image).permute(2, 0, 1), labels)

    def decoded_bytes(self, sample: int) -> int:
        """Bytes of the sample in memory, before augmentation."""
        height, width = self.size_hw or (self.index.height_px[sample], self.index.width_px[sample])
        return int(height) * int(width) * (3 if self.id_table is None else 4)

    def key(self, sample: int) -> str:
        """The sample's key, for reports and pictures."""
        return str(self.index.keys[sample])

    def name(self, sample: int) -> str:
        """The sample's key after its shard's URI, for messages."""
        shard = self.manifest.shards[int(self.index.shard[sample])].name
        return f"{self.store.uri}/{self.split}/{shard}: {self.key(sample)}"

    def close(self) -> None:
        """Stop fetching and release the shards."""
        self._closed = True
        self.want([])
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _bytes(self, sample: int) -> tuple[bytes, bytes]:
        """The stored image and, where labels are read, the stored label."""
        row = self.index
        shard = self._shard(int(row.shard[sample]))
        image = (int(row.image_offset_bytes[sample]), int(row.image_length_bytes[sample]))
        label = (int(row.label_offset_bytes[sample]), int(row.label_length_bytes[sample]))
        if shard is None:
            return self._fetched(sample, image, label)
        return shard.read(*image), shard.read(*label) if self.id_table is not None else b""

    def _fetched(
        self, sample: int, image: tuple[int, int], label: tuple[int, int]
    ) -> tuple[bytes, bytes]:
        """The same bytes by one request of their own, (offset, length) each; what lies between is a
        tar header."""
        start = min(image[0], label[0]) if label[1] else image[0]
        length_bytes = max(image[0] + image[1], label[0] + label[1]) - start
        info = self.manifest.shards[int(self.index.shard[sample])]

        def right(data: bytearray) -> bool:
            digest = xxhash.xxh3_64(cut(data, image))
            digest.update(cut(data, label))
            return digest.intdigest() == int(self.index.xxh3[sample])

        def cut(data: bytearray, extent: tuple[int, int]) -> bytes:
            return bytes(data[extent[0] - start :][: extent[1]])

        data = self.cache.fetcher.fetch_range(
            self.store, f"{self.split}/{info.name}", start, length_bytes, right
        )
        return cut(data, image), cut(data, label)

    def _shard(self, shard: int) -> OpenShard | None:
        """The shard, once it is there; None where its samples are to be fetched one by one."""
        while True:
            with self._lock:
                future = self._opened(shard)
            try:
                return future.result()
            except CancelledError:  # by `want`, before the fetch had begun
                if self._closed:
                    raise

    def _opened(self, shard: int) -> "Future[OpenShard | None]":
        if shard not in self._shards:
            self._shards[shard] = self._pool.submit(self._open, shard)
        return self._shards[shard]

    def _open(self, shard: int) -> OpenShard | None:
        info = self.manifest.shards[shard]
        fetch = self.cache.open_if_room if self.random_access else self.cache.open
        return fetch(
            self.store,
            f"{self.split}/{info.name}",
            info.size_bytes,
            info.xxh3,
            self._cached_under,
        )
