"""The plan of a packing: which samples go into which shard, fixed before the first byte is written.

A plan depends on the settings and on the names and headers of the raw files alone. Its fingerprint
identifies the shards that belong to it.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from adapt.data.colours import ColourTable
from adapt.data.datasets import RawLayout, refuse_unknown_ids
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.encodings import ENCODINGS, EncodingName, ImageEncoding
from adapt.data.packed.manifest import (
    FORMAT_VERSION,
    Manifest,
    PackedLabelSpace,
    Sha256,
    Stored,
    StoredEncoding,
)
from adapt.data.raw_labels import read_colours
from adapt.data.writing.survey import (
    Planned,
)
from adapt.errors import JobError, written

MOST_SLICES = 999_999
"""Of one set."""


class Slice(NamedTuple):
    """One of `num_slices` jobs: it packs the shards whose number leaves `number` when divided."""

    number: int
    num_slices: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """`I/N` -> slice. `JobError` for anything else, and for more than `MOST_SLICES`."""
        match = re.fullmatch(r"(\d{1,20})/(\d{1,20})", text, re.ASCII)
        if match is not None and int(match[2]) > MOST_SLICES:
            raise JobError(
                f"--slice: expected at most {MOST_SLICES} slices, got {text!r}",
                "share the work out among fewer",
            )
        if match is None or int(match[1]) >= int(match[2]):
            num_slices = int(match[2]) if match and int(match[2]) else 4
            raise JobError(
                f"--slice: expected I/N with I from 0 to N - 1, got {text!r}",
                fix=f"number the slices 0/{num_slices} to {num_slices - 1}/{num_slices}",
            )
        return cls(int(match[1]), int(match[2]))

    def shards(self, num_shards: int) -> range:
        """The numbers of its shards."""
        return range(self.number, num_shards, self.num_slices)


WHOLE = Slice(0, 1)


class PlanSummary(Stored):
    """The plan as the manifest keeps it; each shard's record carries it, so that a manifest can be
    made of records alone.
    """

    dataset: str
    split: str
    encoding_name: StoredEncoding
    size_hw: tuple[int, int] | None
    labelled: bool
    label_space: PackedLabelSpace | None
    num_samples: Annotated[int, Field(ge=1)]
    num_shards: Annotated[int, Field(ge=1, le=10**6)]
    sha256: Sha256


def differences(there: PlanSummary | Manifest, asked: PlanSummary) -> str:
    """The settings in which two packings differ, for messages."""
    keys = ("dataset", "encoding_name", "size_hw", "labelled", "label_space", "num_samples")
    pairs = [(key, getattr(there, key), getattr(asked, key)) for key in keys]
    found = [
        f"{key.removesuffix('_name')} is {shown(old)} there, {shown(new)} requested"
        for key, old, new in pairs
        if old != new
    ]
    return "; ".join(found) or (
        "other raw files, ids of the classes, seed or shard size, or other colours of labels"
    )


def shown(value: object) -> str:
    """A setting as messages show it."""
    return str(value) if isinstance(value, PackedLabelSpace) else written(value)


@dataclass(frozen=True)
class PackingPlan:
    """Everything that decides the packed bytes. With a `label_space`, labels are stored as its
    train ids.
    """

    layout: RawLayout
    dataset: str
    split: str
    encoding_name: EncodingName
    size_hw: tuple[int, int] | None
    labelled: bool
    label_space: LabelSpace | None
    shards: tuple[tuple[Planned, ...], ...]
    colours: ColourTable | None = None

    @property
    def encoding(self) -> ImageEncoding:
        """How the images are stored."""
        return ENCODINGS[self.encoding_name]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(len(shard) for shard in self.shards)

    @cached_property
    def table(self) -> npt.NDArray[np.uint8] | None:
        """(256,) uint8: what is stored for each of the dataset's ids; None where it is the id."""
        return self.label_space.table(self.dataset) if self.label_space else None

    def read_label(self, path: Path) -> npt.NDArray[np.uint8]:
        """A label file -> (H, W) uint8 ids of the dataset. `DataError` names what is wrong."""
        if self.colours is not None:
            return read_colours(path, self.colours)
        labels = self.layout.read_label(path)
        refuse_unknown_ids(np.flatnonzero(np.bincount(labels.ravel())).tolist(), self.layout, path)
        return labels

    @cached_property
    def summary(self) -> PlanSummary:
        """The plan without its samples."""
        return PlanSummary(
            dataset=self.dataset,
            split=self.split,
            encoding_name=self.encoding_name,
            size_hw=self.size_hw,
            labelled=self.labelled,
            label_space=PackedLabelSpace.of(self.label_space) if self.label_space else None,
            num_samples=self.num_samples,
            num_shards=len(self.shards),
            sha256=self.fingerprint(),
        )

    def fingerprint(self) -> str:
        """sha256 over the settings, the samples in order, and the sizes of their files in bytes."""
        space = self.label_space
        settings = [
            FORMAT_VERSION,
            self.dataset,
            self.split,
            self.encoding_name,
            self.size_hw,
            self.labelled,
            space and [space.names, space.table(self.dataset).tolist()],
            *([self.colours.key()] if self.colours else []),
        ]
        samples = [
            [(planned.sample.key, planned.image_bytes, planned.label_bytes) for planned in shard]
            for shard in self.shards
        ]
        return hashlib.sha256(json.dumps([settings, samples]).encode()).hexdigest()
