"""Finding the files of a split in a raw folder: a function for each way in which datasets are laid
out. Each takes the raw folder and the split, and returns {key: path}.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from adapt.data.packed.encodings import SUFFIXES
from adapt.errors import DataError, JobError

Files = dict[str, Path]
"""key -> file."""


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
            raise DataError(
                f"{path}: expected a key of its own, got {key!r} as of {files[key]}",
                fix="rename one",
            )
        files[key] = path
    return files


def image_files(folder: Path) -> list[Path]:
    """All PNG and JPEG files in and under a folder; none where there is no folder."""
    return [
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
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
            f"--split: expected the list {path} for split {split!r}, got none",
            fix="write it, one image file name a line, or use --split train for all images",
        )
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    keys = {Path(name).stem.replace(".", "-") for name in names}
    missing = sorted(keys - files.keys())
    if missing:
        raise DataError(
            f"{path}: expected files that exist, got {len(missing)} without, such as "
            f"{missing[0]!r}",
            fix="remove their lines, or add the files",
        )
    return {key: file for key, file in files.items() if key in keys}


def find_in(folder: str) -> Callable[[Path, str], Files]:
    """Files lie in one folder; splits are lists beside it (GTA5, SYNTHIA)."""

    def find(raw_dir: Path, split: str) -> Files:
        return listed(raw_dir, split, keyed(raw_dir / folder, image_files(raw_dir / folder)))

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
        return keyed(folder, image_files(folder))

    return find


def find_folders(folder: str) -> Callable[[Path, str], Files]:
    """Files lie in SPLIT/FOLDER, or in FOLDER with a list of the split beside it or none at all."""

    def find(raw_dir: Path, split: str) -> Files:
        if (raw_dir / split).is_dir():
            return keyed(raw_dir / split / folder, image_files(raw_dir / split / folder))
        files = keyed(raw_dir / folder, image_files(raw_dir / folder))
        return listed(raw_dir, split, files) if files else files

    return find
