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

from adapt.data.raw_files import (
    Files,
    find_camvid,
    find_cityscapes,
    find_folders,
    find_in,
    find_in_first,
)
from adapt.data.raw_labels import read_ids, read_synthia_ids
from adapt.errors import MAX_SHOWN, DataError, JobError, known_names


class RawSample(NamedTuple):
    """One sample before packing; `key` is its name in the packed data set."""

    key: str
    image_path: Path
    label_path: Path | None


@dataclass(frozen=True)
class RawLayout:
    """A row of `DATASETS`. `known_ids` None: any id from 0 to 255 may occur. `splits` empty: any
    name.
    """

    summary: str
    splits: tuple[str, ...]
    known_ids: frozenset[int] | None
    find_images: Callable[[Path, str], Files]
    find_labels: Callable[[Path, str], Files]
    read_label: Callable[[Path], npt.NDArray[np.uint8]]
    needs_labels: bool = True

    def pairs(
        self, raw_dir: Path, split: str, *, unlabelled: bool = False, skip: Collection[str] = ()
    ) -> list[RawSample]:
        """The split's samples in key order; with `unlabelled`, labels are neither sought nor
        needed.

        Raises `DataError` that lists images without label and labels without image, and where
        nothing is found.
        """
        images = without(self.find_images(raw_dir, split), skip)
        if not images:
            raise DataError(
                f"{raw_dir}: expected {self.summary}, got no images of split {split!r}",
                fix="check RAW_DIR and --split",
            )
        labels = {} if unlabelled else without(self.find_labels(raw_dir, split), skip)
        if labels or (self.needs_labels and not unlabelled):
            refuse_unpaired(raw_dir, images, labels)
        return [RawSample(key, images[key], labels.get(key)) for key in sorted(images)]


def without(files: Files, skip: Collection[str]) -> Files:
    """The files whose key is not to be skipped."""
    return {key: path for key, path in files.items() if key not in skip}


def refuse_unpaired(raw_dir: Path, images: Files, labels: Files) -> None:
    """`DataError` listing images without label and labels without image."""
    problems = [
        f"{images[key]}: image without label" for key in sorted(images.keys() - labels.keys())
    ]
    problems += [
        f"{labels[key]}: label without image" for key in sorted(labels.keys() - images.keys())
    ]
    refuse(raw_dir, problems)


def refuse(raw_dir: Path, problems: list[str]) -> None:
    """Nothing where there are no problems, else one `DataError` with the first ten."""
    if not problems:
        return
    more = f"\n  ... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    shown = "\n  ".join(problems[:MAX_SHOWN])
    raise DataError(
        f"{raw_dir}: {len(problems)} bad files:\n  {shown}{more}",
        fix="replace them, leave samples out with --skip KEY, or pack images alone with "
        "--unlabelled",
    )


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


DATASETS: dict[str, RawLayout] = {
    "gta5": RawLayout(
        summary="images/*.png and labels/*.png (palette PNGs whose indices are ids)",
        splits=("train",),
        known_ids=frozenset(range(35)),
        find_images=find_in("images"),
        find_labels=find_in("labels"),
        read_label=read_ids,
    ),
    "cityscapes": RawLayout(
        summary="leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png",
        splits=("train", "val", "test", "train_extra"),
        known_ids=frozenset(range(34)),
        find_images=find_cityscapes("leftImg8bit", "_leftImg8bit.png"),
        find_labels=find_cityscapes("gtFine", "_gtFine_labelIds.png"),
        read_label=read_ids,
    ),
    "synthia": RawLayout(
        summary="RGB/*.png, GT/LABELS/*.png (16 bit, id in channel 1) or parsed_LABELS/*.png",
        splits=("train",),
        known_ids=frozenset(range(23)),
        find_images=find_in("RGB"),
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
        find_images=find_folders("images"),
        find_labels=find_folders("labels"),
        read_label=read_ids,
        needs_labels=False,
    ),
}
