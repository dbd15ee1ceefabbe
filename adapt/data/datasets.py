"""Raw datasets as their owners ship them: where images and labels lie, how a label file is read,
which ids may occur.

A new layout is a row of `DATASETS`: a function that finds the files of a split, a function that
reads one label, the known ids. Pairing and its errors are written once, below.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adapt.data.found_files import FoundFiles, named_key
from adapt.data.problems import Notes, Problem, refuse, shown
from adapt.data.raw_files import (
    Find,
    find_camvid,
    find_cityscapes,
    find_folders,
    find_in,
    find_in_first,
    find_listed,
    find_listed_folders,
)
from adapt.data.raw_labels import read_ids, read_synthia_ids
from adapt.data.split_lists import FileNames
from adapt.errors import MAX_SHOWN, DataError, JobError, known_names


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
    read_label: Callable[[Path], npt.NDArray[np.uint8]]
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


FIX_LABEL = "check that RAW_DIR has this dataset's own label files, or use layout folders"


def refuse_unknown_ids(present: Iterable[int], layout: RawLayout, path: Path) -> None:
    """`DataError` naming the ids that the layout does not know, and those it does."""
    if layout.known_ids is None:
        return
    unknown = sorted(set(present) - layout.known_ids)
    if unknown:
        raise DataError(
            f"{path}: expected ids from {min(layout.known_ids)} to {max(layout.known_ids)} in the "
            f"label, got {', '.join(map(str, unknown[:MAX_SHOWN]))}",
            fix=FIX_LABEL,
        )


def known_layout(dataset: str) -> RawLayout:
    """The row of that name. `JobError` for an unknown one."""
    if dataset not in DATASETS:
        raise JobError(f"dataset: expected a raw layout, {known_names(dataset, DATASETS)}")
    return DATASETS[dataset]


CITYSCAPES_OTHERS = (
    *("_color.png", "_instanceIds.png", "_polygons.json"),
    *("_labelTrainIds.png", "_instanceTrainIds.png"),
)
"""Endings of what Cityscapes and its scripts put beside the labels."""

DATASETS: dict[str, RawLayout] = {
    "gta5": RawLayout(
        summary="images/*.png and labels/*.png (palette PNGs whose indices are ids)",
        splits=("train",),
        known_ids=frozenset(range(35)),
        find_images=find_listed(find_in("images")),
        find_labels=find_in("labels"),
        read_label=read_ids,
    ),
    "cityscapes": RawLayout(
        summary="leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png",
        splits=("train", "val", "test", "train_extra"),
        known_ids=frozenset(range(34)),
        find_images=find_cityscapes("leftImg8bit", "_leftImg8bit.png"),
        find_labels=find_cityscapes("gtFine", "_gtFine_labelIds.png", *CITYSCAPES_OTHERS),
        read_label=read_ids,
    ),
    "synthia": RawLayout(
        summary="RGB/*.png, GT/LABELS/*.png (16 bit, id in channel 1) or parsed_LABELS/*.png",
        splits=("train",),
        known_ids=frozenset(range(23)),
        find_images=find_listed(find_in("RGB")),
        find_labels=find_in_first("GT/LABELS", "parsed_LABELS"),
        read_label=read_synthia_ids,
    ),
    "camvid": RawLayout(
        summary="SPLIT/*.png and SPLITannot/*.png (SegNet's layout)",
        splits=("train", "val", "test"),
        known_ids=frozenset(range(12)),
        find_images=find_camvid(""),
        find_labels=find_camvid("annot"),
        read_label=read_ids,
    ),
    "folders": RawLayout(
        summary="images/ and optionally labels/ of equal file names, or SPLIT/images, SPLIT/labels",
        splits=(),
        known_ids=None,
        find_images=find_listed_folders("images"),
        find_labels=find_folders("labels"),
        read_label=read_ids,
        needs_labels=False,
    ),
}
