"""Raw data sets as their owners ship them: where images and labels lie, how a label file is read,
which ids may occur.

A new layout is a row of `DATASETS`: a function that finds the files of a split, a function that
reads one label, the known ids. Pairing and its complaints are written once, below.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapt.data.packed.codecs import PILLOW_FAILURES
from adapt.errors import MAX_SHOWN, DataError, JobError, known_names

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")


class RawSample(NamedTuple):
    """One sample before packing; `key` is its name in the packed data set."""

    key: str
    image_path: Path
    label_path: Path | None


Files = dict[str, Path]
"""key -> file."""


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
            raise DataError(f"{raw_dir}: no images of split {split!r}; expected {self.summary}")
        labels = {} if unlabelled else without(self.find_labels(raw_dir, split), skip)
        if labels or (self.needs_labels and not unlabelled):
            refuse_unpaired(raw_dir, images, labels)
        return [RawSample(key, images[key], labels.get(key)) for key in sorted(images)]


def without(files: Files, skip: Collection[str]) -> Files:
    """The files whose key is not to be skipped."""
    return {key: path for key, path in files.items() if key not in skip}


def refuse_unpaired(raw_dir: Path, images: Files, labels: Files) -> None:
    """`DataError` listing what has no partner."""
    problems = [
        f"{images[key]}: image without label" for key in sorted(images.keys() - labels.keys())
    ]
    problems += [
        f"{labels[key]}: label without image" for key in sorted(labels.keys() - images.keys())
    ]
    refuse(raw_dir, problems)


def refuse(raw_dir: Path, problems: list[str]) -> None:
    """Nothing where there are no problems, else one `DataError` with the first ten, and how to go
    on.
    """
    if not problems:
        return
    more = f"\n  ... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    shown = "\n  ".join(problems[:MAX_SHOWN])
    raise DataError(
        f"{raw_dir}: {len(problems)} bad files:\n  {shown}{more}\n"
        "mend them, leave samples out with --skip KEY, or pack images alone with --unlabelled"
    )


def keyed(root: Path, paths: Iterable[Path], ending: str = "") -> Files:
    """Files -> {key: path}; the key is the path below `root` without `ending`, its slashes and dots
    made `_`, `-`.

    (WebDataset ends a sample's key at the first dot.) Two files of one key are a `DataError`.
    """
    files: Files = {}
    for path in sorted(paths):
        name = path.relative_to(root).as_posix()
        stem = name[: -len(ending)] if ending else name[: -len(path.suffix)]
        key = stem.replace("/", "_").replace(".", "-")
        if key in files:
            raise DataError(f"{path}: has the same key {key!r} as {files[key]}")
        files[key] = path
    return files


def pictures(folder: Path) -> list[Path]:
    """All PNG and JPEG files in and under a folder; none where there is no folder."""
    return [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_ENDINGS and path.is_file()
    ]


def listed(raw_dir: Path, split: str, files: Files) -> Files:
    """`SPLIT.txt` in the raw folder, one file name a line, picks the split; without such a list,
    `train` is everything.
    """
    path = raw_dir / f"{split}.txt"
    if not path.is_file():
        if split == "train":
            return files
        raise JobError(
            f"--split: {split!r} needs the list {path} (one image file name a line); "
            "only 'train' is everything"
        )
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    keys = {Path(name).stem.replace(".", "-") for name in names}
    missing = sorted(keys - files.keys())
    if missing:
        raise DataError(
            f"{path}: names {len(missing)} files that are not there, such as {missing[0]!r}"
        )
    return {key: file for key, file in files.items() if key in keys}


def find_in(folder: str) -> Callable[[Path, str], Files]:
    """Files lie in one folder; splits are lists beside it (GTA5, SYNTHIA)."""

    def find(raw_dir: Path, split: str) -> Files:
        return listed(raw_dir, split, keyed(raw_dir / folder, pictures(raw_dir / folder)))

    return find


def find_in_first(*folders: str) -> Callable[[Path, str], Files]:
    """Files lie in the first of the folders that is there."""

    def find(raw_dir: Path, split: str) -> Files:
        there = [folder for folder in folders if (raw_dir / folder).is_dir()]
        return find_in(there[0] if there else folders[0])(raw_dir, split)

    return find


def find_cityscapes(folder: str, ending: str) -> Callable[[Path, str], Files]:
    """Files lie in FOLDER/SPLIT/CITY/ and end in `ending`; the key is what comes before it."""

    def find(raw_dir: Path, split: str) -> Files:
        paths = sorted((raw_dir / folder / split).glob(f"*/*{ending}"))
        return {path.name.removesuffix(ending): path for path in paths}

    return find


def find_camvid(ending: str) -> Callable[[Path, str], Files]:
    """Files lie in SPLIT + ending."""

    def find(raw_dir: Path, split: str) -> Files:
        folder = raw_dir / f"{split}{ending}"
        return keyed(folder, pictures(folder))

    return find


def find_folders(folder: str) -> Callable[[Path, str], Files]:
    """Files lie in SPLIT/FOLDER, or in FOLDER with a list of the split beside it or none at all."""

    def find(raw_dir: Path, split: str) -> Files:
        if (raw_dir / split).is_dir():
            return keyed(raw_dir / split / folder, pictures(raw_dir / split / folder))
        files = keyed(raw_dir / folder, pictures(raw_dir / folder))
        return listed(raw_dir, split, files) if files else files

    return find


def read_ids(path: Path) -> npt.NDArray[np.uint8]:
    """A single-channel label -> (H, W) uint8 ids. Palette files are read as indices, which are the
    ids.

    Raises `DataError` naming the file: undecodable, a colour picture, values over 255.
    """
    try:
        with Image.open(path) as image:
            mode, ids = image.mode, np.asarray(image)
    except PILLOW_FAILURES as error:
        raise DataError(f"{path}: corrupt label: {error}") from error
    if mode not in ("L", "P") and not mode.startswith("I"):
        raise DataError(
            f"{path}: expected a single-channel PNG of ids, got mode {mode} (a colour picture?)"
        )
    return narrow(ids, path)


def read_synthia_ids(path: Path) -> npt.NDArray[np.uint8]:
    """SYNTHIA's GT/LABELS (16-bit RGB, the id in the first channel) or single-channel parsed_LABELS
    -> (H, W) uint8.

    Pillow keeps only one byte of a 16-bit channel; which one is the raw mode's byte order, so
    reading with both orders gives all 16 bits. (torchvision reads 16 bits too, but a corrupt PNG
    ends its process.)
    """
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                return read_ids(path)
            deep = image.tile[0].args == "RGB;16B"
        if not deep:
            return first_channel(path, None)
        high, low = first_channel(path, "RGB;16B"), first_channel(path, "RGB;16L")
    except PILLOW_FAILURES as error:
        raise DataError(f"{path}: corrupt label: {error}") from error
    return narrow(high.astype(np.uint16) * 256 + low, path)


def first_channel(path: Path, raw_mode: str | None) -> npt.NDArray[np.uint8]:
    """The first channel of an RGB image -> (H, W) uint8, decoded with another raw mode where one is
    given.
    """
    with Image.open(path) as image:
        if raw_mode:
            image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.ascontiguousarray(np.asarray(image)[..., 0])


def narrow(ids: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.uint8]:
    """Ids of any integer type -> uint8. `DataError` where one does not fit."""
    if ids.dtype != np.uint8 and ids.size and not 0 <= ids.min() <= ids.max() <= 255:
        raise DataError(f"{path}: unknown id {int(ids.max())} in the label (ids are 0 to 255)")
    return np.ascontiguousarray(ids, dtype=np.uint8)


def refuse_unknown_ids(present: Iterable[int], layout: RawLayout, path: Path) -> None:
    """`DataError` naming the ids that the layout does not know, and those it does."""
    if layout.known_ids is None:
        return
    unknown = sorted(set(present) - layout.known_ids)
    if unknown:
        raise DataError(
            f"{path}: unknown ids {', '.join(map(str, unknown[:MAX_SHOWN]))} in the label "
            f"(known: {min(layout.known_ids)} to {max(layout.known_ids)})"
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
