"""The layout of a raw dataset: how the files of a split are found, paired and read."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt.data.archives import with_archives
from adapt.data.found_files import FoundFiles, named_key
from adapt.data.problems import Notes, Problem, refuse, shown
from adapt.data.raw_files import Find
from adapt.data.split_lists import FileNames
from adapt.errors import DataError

ReadLabel = Callable[[Path], npt.NDArray[np.uint8]]
"""A label file -> (H, W) uint8 ids."""


class RawSample(NamedTuple):
    """One sample before packing; `key` is its name in the packed data set."""

    key: str
    image_path: Path
    label_path: Path | None


class RawSamples(NamedTuple):
    """The samples of a split in key order, the faults that names show, and what was left out."""

    samples: list[RawSample]
    problems: list[Problem]
    notes: Notes


@dataclass(frozen=True)
class RawLayout:
    """A row of `DATASETS`. `known_ids` None: any id from 0 to 255 may occur. `splits` empty: any
    name.
    """

    summary: str
    splits: tuple[str, ...]
    known_ids: frozenset[int] | None
    find_images: Find
    find_labels: Find
    read_label: ReadLabel
    needs_labels: bool = True

    def find(
        self,
        raw_dir: Path,
        split: str,
        *,
        unlabelled: bool = False,
        pairs_only: bool = False,
        skip: Collection[str] = (),
    ) -> RawSamples:
        """Find the split's samples. `skip` are keys or file names; with `unlabelled`, labels are
        neither sought nor needed; with `pairs_only`, files without partner are left out.

        Raises `DataError` where nothing is found.
        """
        raw_dir = with_archives(raw_dir)
        images = self.find_images(raw_dir, split)
        labels = FoundFiles() if unlabelled else self.find_labels(raw_dir, split)
        if not (images.files or images.problems):
            raise DataError(
                f"{shown(raw_dir)}: expected {self.summary}, got no images of split {split!r}",
                fix="check RAW_DIR and --split",
            )
        if images.listed:  # labels of other images are of other splits
            labels.files = {k: path for k, path in labels.files.items() if k in images.files}
            kept = images.files.keys()
            labels.problems = [one for one in labels.problems if one.key in kept or not one.key]
        notes = Notes(images.left_out + labels.left_out, images.included)
        leave_out(images, labels, skip, notes)
        needed = self.needs_labels or pairs_only or labels.any
        unpaired = unpaired_files(images, labels) if needed and not unlabelled else []
        if pairs_only and not unlabelled:
            leave_unpaired(images, labels, notes)
        problems = images.problems + labels.problems + ([] if pairs_only else unpaired)
        if not (images.files or problems):
            raise DataError(
                f"{shown(raw_dir)}: expected samples of split {split!r}, got none: all left out "
                f"({', '.join(notes.left_out)})",
                fix="check --skip, --skip-file and --pairs-only",
            )
        keys = sorted(images.files)
        samples = [RawSample(key, images.files[key], labels.files.get(key)) for key in keys]
        return RawSamples(samples, problems, notes)

    def pairs(
        self, raw_dir: Path, split: str, *, unlabelled: bool = False, skip: Collection[str] = ()
    ) -> list[RawSample]:
        """The samples of `find`. Raises `BadFiles` that lists images without label, labels without
        image, and names that cannot be packed.
        """
        found = self.find(raw_dir, split, unlabelled=unlabelled, skip=skip)
        refuse(raw_dir, found.problems)
        return found.samples


def leave_out(images: FoundFiles, labels: FoundFiles, skip: Collection[str], notes: Notes) -> None:
    """Remove the files, and the faults, of samples to skip; `skip` are keys or file names."""
    faults = {one.key for found in (images, labels) for one in found.problems}
    there = images.files.keys() | labels.files.keys() | faults
    tables = [FileNames(found.files, found.folder) for found in (images, labels) if skip]
    keys: set[str] = set()
    for text in skip:
        fits = {text, named_key(text)} & there
        fits = fits or set().union(*(names.find(text) for names in tables))
        notes.unused["names to skip that fit no file"] += not fits
        keys |= fits
    notes.left_out["samples to skip"] += len(keys)
    for found in (images, labels):
        found.files = {key: path for key, path in found.files.items() if key not in keys}
        found.problems = [one for one in found.problems if not one.key or one.key not in keys]


def unpaired_files(images: FoundFiles, labels: FoundFiles) -> list[Problem]:
    """Images without label and labels without image; a file with a fault is there."""
    pairs = ((images, labels, "image without label"), (labels, images, "label without image"))
    return [
        Problem(shown(here.files[key]), text, key)
        for here, there, text in pairs
        for key in sorted(here.files.keys() - there.files.keys() - faulty(there))
    ]


def faulty(found: FoundFiles) -> set[str]:
    """Keys of the files that have a fault."""
    return {problem.key for problem in found.problems}


def leave_unpaired(images: FoundFiles, labels: FoundFiles, notes: Notes) -> None:
    """Keep pairs alone."""
    both = images.files.keys() & labels.files.keys()
    notes.left_out["images without label"] += len(images.files.keys() - both)
    notes.left_out["labels without image"] += len(labels.files.keys() - both)
    for found in (images, labels):
        found.files = {key: path for key, path in found.files.items() if key in both}
