"""Raw datasets as their owners ship them: where images and labels lie, how a label file is read,
which ids may occur.

A new layout is a row of `DATASETS`: a function that finds the files of a split, a function that
reads one label, the known ids. Pairing and its errors are written once, in `raw_layout.py`.
"""

from collections.abc import Iterable
from pathlib import Path

from adapt.data.raw_files import (
    find_camvid,
    find_cityscapes,
    find_folders,
    find_in,
    find_in_first,
    find_listed,
    find_listed_folders,
)
from adapt.data.raw_labels import read_ids, read_synthia_ids
from adapt.data.raw_layout import RawLayout, RawSample, RawSamples
from adapt.data.street_datasets import STREET_DATASETS
from adapt.errors import MAX_SHOWN, DataError, JobError, known_names

__all__ = ["DATASETS", "RawLayout", "RawSample", "RawSamples", "known_layout", "refuse_unknown_ids"]

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
    **STREET_DATASETS,
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
