"""The plan of a packing: which samples go into which shard, fixed before the first byte is written.

A plan depends on the settings and on the names and headers of the raw files alone. Its fingerprint
identifies the shards that belong to it.
"""

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
from pydantic import Field

from adapt.data.colours import ColourTable
from adapt.data.datasets import RawLayout, RawSamples, known_layout, refuse_unknown_ids
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.encodings import ENCODINGS, EncodingName, ImageEncoding
from adapt.data.packed.manifest import (
    FORMAT_VERSION,
    MAX_SHARD_BYTES,
    Manifest,
    PackedLabelSpace,
    Sha256,
    Stored,
    StoredEncoding,
)
from adapt.data.problems import Notes, Problem
from adapt.data.raw_labels import read_colours
from adapt.data.writing.survey import (
    LARGEST,
    Planned,
    Surveyed,
    as_text,
    survey,
    too_large,
)
from adapt.errors import DataError, JobError, known_names, written

SHARD_BYTES = 64_000_000


class Slice(NamedTuple):
    """One of `num_slices` jobs: it packs the shards whose number leaves `number` when divided."""

    number: int
    num_slices: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """`I/N` -> slice. `JobError` for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
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


class PlanSettings(TypedDict, total=False):
    """The settings that decide the packed bytes.

    `encoding` is a row of `ENCODINGS` (default exact); `size_hw` None keeps sizes; `name` is the
    dataset's name in label spaces (default: the layout's); `unlabelled` leaves labels out; `seed`
    decides the order; `shard_bytes` is the size that shards aim at; `skip` are keys or file names
    to leave out; `pairs_only` leaves out files without partner; `colours` reads labels as colours;
    with a `label_space` the labels are stored as its train ids.
    """

    encoding: EncodingName
    size_hw: tuple[int, int] | None
    name: str | None
    unlabelled: bool
    seed: int
    shard_bytes: int
    skip: Collection[str]
    pairs_only: bool
    colours: ColourTable | None
    label_space: LabelSpace | None


class Draft(NamedTuple):
    """A plan with the faults that names and headers show. Where there are any, it holds the sound
    samples alone and is not to be packed.
    """

    plan: PackingPlan
    surveyed: list[Surveyed]
    problems: list[Problem]
    notes: Notes


def make_plan(dataset: str, raw_dir: Path, split: str, **settings: Unpack[PlanSettings]) -> Draft:
    """Find the samples, read all headers, and deal the samples to shards in an order that `seed`
    alone decides.

    Raises `JobError` for wrong settings, `DataError` where nothing is found.
    """
    encoding_name, size_hw = settings.get("encoding", "exact"), settings.get("size_hw")
    shard_bytes, label_space = settings.get("shard_bytes", SHARD_BYTES), settings.get("label_space")
    name, seed = settings.get("name") or dataset, settings.get("seed", 0)
    check_settings(split, encoding_name, size_hw, shard_bytes)
    layout = known_layout(dataset)
    check_raw_dir(dataset, layout, raw_dir, split)
    if label_space:
        label_space.table(name)  # refuses a dataset that it does not map
    samples, problems, notes = found_samples(layout, raw_dir, split, settings)
    surveyed = survey(samples, ENCODINGS[encoding_name])
    problems += [problem for one in surveyed for problem in one.problems]
    planned = [one.planned for one in surveyed if one.planned]
    planned.sort(key=lambda item: shuffle_key(seed, item.sample.key))
    notes.converted.update(reason for item in planned for reason in item.conversions)
    labelled = any(sample.label_path for sample in samples)
    check_labels(labelled or bool(problems), settings)
    shards = dealt(planned, shard_bytes, ENCODINGS[encoding_name], size_hw)
    colours = settings.get("colours")
    kinds = (layout, name, split, encoding_name, size_hw)
    plan = PackingPlan(*kinds, labelled, label_space, shards, colours)
    return Draft(plan, surveyed, problems, notes)


def found_samples(
    layout: RawLayout, raw_dir: Path, split: str, settings: PlanSettings
) -> RawSamples:
    """The samples of `RawLayout.find` with these settings."""
    return layout.find(
        raw_dir,
        split,
        unlabelled=settings.get("unlabelled", False),
        pairs_only=settings.get("pairs_only", False),
        skip=settings.get("skip", ()),
    )


def check_labels(labelled: bool, settings: PlanSettings) -> None:
    """`JobError` where settings are for labels and there are none."""
    for key, option in (("label_space", "--classes"), ("colours", "--colours")):
        if settings.get(key) and not labelled:
            raise JobError(
                f"{option}: expected labels to map, got images alone", fix=f"leave out {option}"
            )


def check_settings(
    split: str, encoding: str, size_hw: tuple[int, int] | None, shard_bytes: int
) -> None:
    """`JobError` for settings that no packing can have."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise JobError(f"--split: expected letters, digits, '_' and '-', got {split!r}")
    if encoding not in ENCODINGS:
        raise JobError(f"encoding: expected a known name, {known_names(encoding, ENCODINGS)}")
    if size_hw is not None and (len(size_hw) != 2 or min(size_hw) < 1):
        raise JobError(f"--size-hw: expected a positive height and width in pixels, got {size_hw}")
    if size_hw is not None and too_large(size_hw):
        raise JobError(f"--size-hw: expected {LARGEST}, got {as_text(size_hw)}")
    ENCODINGS[encoding].check(size_hw)
    if not 1 <= shard_bytes <= MAX_SHARD_BYTES:
        expected = "a positive size" if shard_bytes < 1 else f"at most {MAX_SHARD_BYTES // 10**6}"
        raise JobError(f"--shard-mb: expected {expected}, got {shard_bytes} bytes")


def check_raw_dir(dataset: str, layout: RawLayout, raw_dir: Path, split: str) -> None:
    """`JobError` for a split that the layout does not have, `DataError` for a missing folder."""
    if layout.splits and split not in layout.splits and not (raw_dir / f"{split}.txt").is_file():
        raise JobError(
            f"--split: expected a split of {dataset}, {known_names(split, layout.splits)}"
        )
    if not raw_dir.is_dir():
        raise DataError(
            f"{raw_dir}: expected a folder with {layout.summary}, got none",
            fix=f"pass the folder of {dataset} as it was downloaded",
        )


def dealt(
    planned: list[Planned],
    shard_bytes: int,
    encoding: ImageEncoding,
    size_hw: tuple[int, int] | None,
) -> tuple[tuple[Planned, ...], ...]:
    """Samples in order -> shards of about `shard_bytes`."""
    if not planned:
        return ()
    files_bytes = [item.image_bytes for item in planned]
    sizes_hw = [size_hw or item.size_hw for item in planned]
    count = max(1, round(shard_bytes / encoding.mean_bytes(files_bytes, sizes_hw)))
    return tuple(tuple(planned[start : start + count]) for start in range(0, len(planned), count))


def shuffle_key(seed: int, key: str) -> bytes:
    """Sorting by this is a permutation that no library's version can change."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
