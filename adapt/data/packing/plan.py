"""The plan of a packing: which samples go into which shard, fixed before the first byte is written.

A plan depends on the arguments and on the names and headers of the raw files alone. Its fingerprint
tells a shard that belongs to it from one of another packing.
"""

import hashlib
import json
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from adapt.config.section import Section
from adapt.data.datasets import RawLayout, RawSample, known_layout, refuse
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import MAX_PIXELS, MAX_SIDE_PX, PILLOW_FAILURES
from adapt.data.packed.manifest import (
    FORMAT_VERSION,
    MAX_SHARD_BYTES,
    Manifest,
    PackedLabelSpace,
    Profile,
    Sha256,
)
from adapt.errors import DataError, JobError, known_names

SHARD_BYTES = 64_000_000
BYTES_A_PIXEL = {"exact": 1.6, "small": 0.36}
"""Measured on street scenes at 1280x720; a plan needs an estimate, not the truth."""


class Planned(NamedTuple):
    """A sample with what the planning has seen of it: the sizes of its files, and its size in
    pixels.
    """

    sample: RawSample
    image_bytes: int
    label_bytes: int
    size_hw: tuple[int, int]


class Slice(NamedTuple):
    """What one of `num_slices` jobs packs: the shards whose number leaves `number` when divided."""

    number: int
    num_slices: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """`I/N` -> slice. `JobError` for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if match is None or int(match[1]) >= int(match[2]):
            raise JobError(f"--slice: expected I/N with I from 0 to N - 1, as in 0/4, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def shards(self, num_shards: int) -> range:
        """The numbers of its shards."""
        return range(self.number, num_shards, self.num_slices)


WHOLE = Slice(0, 1)


class PlanSummary(Section):
    """What the manifest says of its plan; each shard's record carries it, so that a manifest can be
    made of records alone.
    """

    dataset: str
    split: str
    profile: Profile
    size_hw: tuple[int, int] | None
    labelled: bool
    label_space: PackedLabelSpace | None
    num_samples: Annotated[int, Field(ge=1)]
    num_shards: Annotated[int, Field(ge=1, le=10**6)]
    sha256: Sha256


def differences(there: PlanSummary | Manifest, asked: PlanSummary) -> str:
    """How a packing differs from another one, in words."""
    keys = ("dataset", "profile", "size_hw", "labelled", "label_space", "num_samples")
    pairs = [(key, getattr(there, key), getattr(asked, key)) for key in keys]
    found = [
        f"{key} is {shown(old)} there, {shown(new)} asked" for key, old, new in pairs if old != new
    ]
    return "; ".join(found) or "of other raw files, ids of the classes, seed or shard size"


def shown(value: object) -> str:
    """A setting as messages show it."""
    return str(value) if isinstance(value, PackedLabelSpace) else repr(value)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the packed bytes. With a `label_space`, labels are stored as its
    train ids.
    """

    layout: RawLayout
    dataset: str
    split: str
    profile: Profile
    size_hw: tuple[int, int] | None
    labelled: bool
    label_space: LabelSpace | None
    shards: tuple[tuple[Planned, ...], ...]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(len(shard) for shard in self.shards)

    @cached_property
    def table(self) -> npt.NDArray[np.uint8] | None:
        """(256,) uint8: what is stored for each of the dataset's ids; None where it is the id."""
        return self.label_space.table(self.dataset) if self.label_space else None

    @cached_property
    def summary(self) -> PlanSummary:
        """The plan without its samples."""
        return PlanSummary(
            dataset=self.dataset,
            split=self.split,
            profile=self.profile,
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
            self.profile,
            self.size_hw,
            self.labelled,
            space and [space.names, space.table(self.dataset).tolist()],
        ]
        samples = [
            [(planned.sample.key, planned.image_bytes, planned.label_bytes) for planned in shard]
            for shard in self.shards
        ]
        return hashlib.sha256(json.dumps([settings, samples]).encode()).hexdigest()


def check_arguments(
    split: str, profile: str, size_hw: tuple[int, int] | None, shard_bytes: int
) -> None:
    """`JobError` for arguments that no packing can have."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise JobError(f"--split: expected letters, digits, '_' and '-', got {split!r}")
    if profile not in get_args(Profile):
        raise JobError(f"--profile: {known_names(profile, get_args(Profile))}")
    if size_hw is not None and (len(size_hw) != 2 or min(size_hw) < 1):
        raise JobError(f"--size-hw: expected a positive height and width in pixels, got {size_hw}")
    if size_hw is not None and too_large(size_hw):
        raise JobError(f"--size-hw: expected {LARGEST}, got {in_words(size_hw)}")
    if profile == "original" and size_hw is not None:
        raise JobError(
            "--size-hw: profile 'original' keeps the files as they are; leave the size out"
        )
    if not 1 <= shard_bytes <= MAX_SHARD_BYTES:
        expected = "a positive size" if shard_bytes < 1 else f"at most {MAX_SHARD_BYTES // 10**6}"
        raise JobError(f"--shard-mb: expected {expected}, got {shard_bytes} bytes")


def make_plan(
    dataset: str,
    raw_dir: Path,
    split: str,
    *,
    profile: Profile,
    size_hw: tuple[int, int] | None,
    name: str | None,
    unlabelled: bool,
    seed: int,
    shard_bytes: int,
    skip: Collection[str] = (),
    label_space: LabelSpace | None = None,
) -> Plan:
    """Find the samples, refuse bad pairs, and deal the samples to shards in an order that `seed`
    alone decides.
    """
    layout = known_layout(dataset)
    if layout.splits and split not in layout.splits and not (raw_dir / f"{split}.txt").is_file():
        raise JobError(f"--split: {dataset} has no such split; {known_names(split, layout.splits)}")
    if not raw_dir.is_dir():
        raise DataError(f"{raw_dir}: there is no such folder; {dataset} expects {layout.summary}")
    if label_space:
        label_space.table(name or dataset)  # refuses a dataset that it does not map
    samples = layout.pairs(raw_dir, split, unlabelled=unlabelled, skip=skip)
    planned = sorted(
        survey(raw_dir, samples), key=lambda item: shuffled_place(seed, item.sample.key)
    )
    size = max(1, round(shard_bytes / estimated_bytes(planned, profile, size_hw)))
    shards = tuple(tuple(planned[start : start + size]) for start in range(0, len(planned), size))
    labelled = samples[0].label_path is not None
    if label_space and not labelled:
        raise JobError("--classes: there are no labels to map; leave out --classes")
    return Plan(layout, name or dataset, split, profile, size_hw, labelled, label_space, shards)


def shuffled_place(seed: int, key: str) -> bytes:
    """Sorting by this is a permutation that no library's version can change."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()


def survey(raw_dir: Path, samples: list[RawSample]) -> list[Planned]:
    """Read every file's header; `DataError` lists the files that are no pictures and the pairs of
    unequal size.
    """
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(survey_sample, samples))
    refuse(raw_dir, [problem for problem in seen if isinstance(problem, str)])
    return [planned for planned in seen if isinstance(planned, Planned)]


def survey_sample(sample: RawSample) -> Planned | str:
    """The sizes of one sample's files, or what is wrong with them."""
    path = sample.image_path
    try:
        size_hw = picture_hw(path)
        if too_large(size_hw):
            return f"{path}: the image is {in_words(size_hw)} pixels (HxW), expected {LARGEST}"
        if sample.label_path is None:
            return Planned(sample, path.stat().st_size, 0, size_hw)
        path = sample.label_path
        label_hw = picture_hw(path)
    except PILLOW_FAILURES as error:
        return f"{path}: corrupt image: {error}"
    if label_hw != size_hw:
        return (
            f"{path}: the label is {in_words(label_hw)}, its image {in_words(size_hw)} pixels (HxW)"
        )
    return Planned(sample, sample.image_path.stat().st_size, path.stat().st_size, size_hw)


LARGEST = f"sides of at most {MAX_SIDE_PX} and {MAX_PIXELS} pixels in all"


def too_large(size_hw: tuple[int, int]) -> bool:
    """Whether readers of packed data would refuse an image of this size."""
    return max(size_hw) > MAX_SIDE_PX or size_hw[0] * size_hw[1] > MAX_PIXELS


def in_words(size_hw: tuple[int, int]) -> str:
    """(height, width) -> `HxW`."""
    return f"{size_hw[0]}x{size_hw[1]}"


def picture_hw(path: Path) -> tuple[int, int]:
    """Height and width in pixels from the header alone."""
    with Image.open(path) as image:
        return image.height, image.width


def estimated_bytes(
    planned: list[Planned], profile: Profile, size_hw: tuple[int, int] | None
) -> float:
    """Mean bytes a packed sample, roughly."""
    if profile == "original":
        return sum(item.image_bytes for item in planned) / len(planned)
    sizes = [size_hw or item.size_hw for item in planned]
    return BYTES_A_PIXEL[profile] * sum(height * width for height, width in sizes) / len(sizes)
