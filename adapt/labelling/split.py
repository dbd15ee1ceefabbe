"""A split of the target with pseudo-labels, written by all ranks: each takes shards of the target
and writes one of its own for each.

Shards, records, index and manifest are those of packing, so a restart skips the shards whose record
is there, and the manifest comes last. Images are stored losslessly, as training would see them: the
split needs no other, and labels cover them pixel by pixel.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import encode_image, encode_label
from adapt.data.packed.encodings import PackedImage
from adapt.data.packed.manifest import PackedLabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.plan import PlanSummary
from adapt.data.writing.shard_records import (
    SampleRecord,
    ShardRecord,
    earlier_record,
    objects_of,
    shard_name,
)
from adapt.data.writing.shard_work import (
    append_sample,
    library_versions,
    pixels_by_id,
    store_shard,
)
from storage.shards.shards import ShardWriter
from storage.store import Store

ENCODING, SUFFIX = "exact", "qoi"


class LabelledSample(NamedTuple):
    """A sample of the target, by its number there: `image` (H, W, 3) uint8 RGB, `labels` (H, W)
    uint8 train ids or None."""

    number: int
    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8] | None


class SplitPlan(NamedTuple):
    """A part of the target as a split: its summary, and the samples of each of its shards."""

    summary: PlanSummary
    shards: tuple[tuple[int, ...], ...]


def plan_split(
    target: PackedSplit,
    split: str,
    samples: Sequence[int],
    classes: LabelSpace | None,
    digest: str,
) -> SplitPlan:
    """Deal samples of the target to shards: those of one of its shards stay together.

    `digest` stands for all that decides the labels, which are of these `classes`, or none.
    """
    shard_of = target.index.shard[list(samples)].tolist()
    by_shard: dict[int, list[int]] = {}
    for sample, shard in zip(samples, shard_of, strict=True):
        by_shard.setdefault(shard, []).append(sample)
    shards = tuple(tuple(by_shard[shard]) for shard in sorted(by_shard))
    size_hw = target.size_hw or target.manifest.size_hw
    decides = [digest, target.manifest.dataset_id, split, shards, size_hw]
    summary = PlanSummary(
        dataset=target.manifest.dataset,
        split=split,
        encoding_name=ENCODING,
        size_hw=size_hw,
        labelled=classes is not None,
        label_space=None if classes is None else PackedLabelSpace.of(classes),
        num_samples=len(samples),
        num_shards=len(shards),
        sha256=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
    )
    return SplitPlan(summary, shards)


class SplitWriter:
    """One rank's part of writing a split."""

    def __init__(self, store: Store, plan: SplitPlan, rank: int, num_ranks: int) -> None:
        self._store, self._plan, self._num_ranks = store, plan, num_ranks
        self._libraries = library_versions()
        there = objects_of(store, plan.summary.split)
        self.pending = [
            number
            for number in range(rank, len(plan.shards), num_ranks)
            if not earlier_record(store, plan.summary, number, there, self._libraries)
        ]
        """The rank's shards that no earlier run has finished."""

    @property
    def samples(self) -> Sequence[int]:
        """The samples of the pending shards, in their order."""
        return [sample for number in self.pending for sample in self._plan.shards[number]]

    def write(self, target: PackedSplit, labelled: Iterator[LabelledSample]) -> None:
        """Write the pending shards from their samples, which come in the order of `samples`."""
        for number in self.pending:
            with tempfile.TemporaryDirectory(prefix="segadapt-labels-") as folder:
                path = Path(folder, f"{shard_name(number)}.tar")
                with ShardWriter(path) as writer:
                    rows = [
                        _append(writer, target.key(one.number), one)
                        for one in (next(labelled) for _ in self._plan.shards[number])
                    ]
                self._store_shard(number, path, rows)

    def _store_shard(self, number: int, path: Path, rows: list[SampleRecord]) -> None:
        split = self._plan.summary.split
        shard = store_shard(self._store, split, path, len(rows))
        record = ShardRecord(self._plan.summary, self._libraries, shard, rows, self._num_ranks)
        self._store.put(f"{split}/{shard_name(number)}.json", record.to_json())


def _append(writer: ShardWriter, key: str, sample: LabelledSample) -> SampleRecord:
    height_px, width_px, _ = sample.image.shape
    image = PackedImage(SUFFIX, encode_image(sample.image, SUFFIX), (height_px, width_px))
    if sample.labels is None:
        return append_sample(writer, key, image, b"", {})
    encoded, id_pixels = encode_label(sample.labels), pixels_by_id(sample.labels)
    return append_sample(writer, key, image, encoded, id_pixels)
