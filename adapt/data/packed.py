"""One packed split of a dataset, opened for reading: sample index -> decoded image and train ids.

Shards are fetched whole into the node's cache, ahead of need where told to, and read by offset; the
index says where each sample stands, so no tar is parsed. Threads may read side by side.
"""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from adapt.data.augment import Sample
from adapt.data.codecs import decode_image, decode_label, resize_image
from adapt.data.manifest import read_manifest
from adapt.errors import DataError
from adapt.section import Section
from storage.cache import ShardCache
from storage.shards import read_member
from storage.store import Store

FETCHES_IN_FLIGHT = 4


class SplitConfig(Section):
    """One packed split of a dataset, as a job spec names it."""

    dataset: str = Field(
        description="Its name in label maps: a row of DATASETS, or the name it was packed under."
    )
    uri: str = Field(description="Where it was packed to: file path or URI of a store.")
    split: str = Field("train", description="Which split.")
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
    own size. Raises `DataError` where they disagree.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        cache: ShardCache,
        id_table: np.ndarray | None,
        size_hw: tuple[int, int] | None = None,
    ) -> None:
        self.manifest, self.index = read_manifest(store, split)
        self.store, self.split, self.cache = store, split, cache
        self.id_table, self.size_hw = id_table, size_hw
        if id_table is not None and not self.manifest.labelled:
            raise DataError(f"{store.uri}/{split}: has no labels; pack it again with its labels")
        packed_hw = self.manifest.size_hw
        resizable = self.manifest.profile == "original" or size_hw is None
        if not resizable and packed_hw is not None and tuple(packed_hw) != tuple(size_hw or ()):
            raise DataError(
                f"{store.uri}/{split}: packed at {list(packed_hw)}, "
                f"asked for {list(size_hw or ())}: set size_hw to the packed size, or pack again "
                "(--size-hw, or --original to resize as it is read)"
            )
        self._pool = ThreadPoolExecutor(FETCHES_IN_FLIGHT, thread_name_prefix="fetch")
        self._shards: dict[int, Future[int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.manifest.num_samples

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
                f"{self.store.uri}/{self.split}: was opened without its labels, so their pixels "
                "cannot be counted"
            )
        train_ids = self.id_table[list(self.manifest.ids)]
        is_class = train_ids[:, None] == np.arange(num_classes)
        return self.index.id_pixels.astype(np.int64) @ is_class

    def fetch_ahead(self, shards: Iterable[int]) -> None:
        """Start fetching these shards, in this order, where that has not begun."""
        for shard in shards:
            self._opened(shard)

    def read(self, sample: int) -> Sample:
        """Decode one sample: image (3, H, W) uint8 RGB, labels (H, W) uint8 train ids or None.

        Raises `StoreError` where its shard cannot be had, `DataError` where its bytes do not decode
        or have another size than the index says.
        """
        row, name = self.index, self.name(sample)
        file = self._opened(int(row.shard[sample])).result()
        data = read_member(
            file, int(row.image_offset_bytes[sample]), int(row.image_length_bytes[sample])
        )
        image = decode_image(data, str(row.suffix[sample]), name)
        indexed_hw = (int(row.height_px[sample]), int(row.width_px[sample]))
        if image.shape[:2] != indexed_hw:
            raise DataError(
                f"{name}: expected an image of {list(indexed_hw)} pixels as its label has (height, "
                f"width), found {list(image.shape[:2])}"
            )
        if self.size_hw is not None and image.shape[:2] != tuple(self.size_hw):
            image = resize_image(image, self.size_hw)
        return Sample(torch.from_numpy(image).permute(2, 0, 1), self._labels(sample, file, name))

    def key(self, sample: int) -> str:
        """The sample's key, for reports and pictures."""
        return str(self.index.keys[sample])

    def name(self, sample: int) -> str:
        """The sample's key after its shard's URI, for messages."""
        shard = self.manifest.shards[int(self.index.shard[sample])].name
        return f"{self.store.uri}/{self.split}/{shard}: {self.key(sample)}"

    def close(self) -> None:
        """Stop fetching and close the open shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for opened in self._shards.values():
            if not opened.cancelled() and opened.exception() is None:
                os.close(opened.result())
        self._shards.clear()

    def _labels(self, sample: int, file: int, name: str) -> torch.Tensor | None:
        if self.id_table is None:
            return None
        row = self.index
        data = read_member(
            file, int(row.label_offset_bytes[sample]), int(row.label_length_bytes[sample])
        )
        ids = decode_label(data, int(row.height_px[sample]), int(row.width_px[sample]), name)
        return torch.from_numpy(self.id_table[ids])

    def _opened(self, shard: int) -> "Future[int]":
        with self._lock:
            if shard not in self._shards:
                self._shards[shard] = self._pool.submit(self._open, shard)
            return self._shards[shard]

    def _open(self, shard: int) -> int:
        info = self.manifest.shards[shard]
        path = self.cache.fetch(
            self.store,
            f"{self.split}/{info.name}",
            info.size_bytes,
            info.xxh3,
            self.manifest.dataset_id,
        )
        return os.open(path, os.O_RDONLY)
