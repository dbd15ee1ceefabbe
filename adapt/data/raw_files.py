"""Finding the files of a split in a raw folder: a function for each way in which datasets are laid
out. Each takes the raw folder and the split, and returns the files, their faults, and what it left
out.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from adapt.data.found_files import (
    FoundFiles,
    Walk,
    image_files,
    is_folder,
    key_of,
    keyed,
    named_key,
)
from adapt.data.problems import Problem, shown, shown_name
from adapt.data.split_lists import FileNames, ambiguous, read_names, readings
from adapt.errors import MAX_SHOWN, JobError


def picked(raw_dir: Path, split: str, found: FoundFiles) -> FoundFiles:
    """The images that `SPLIT.txt` in the raw folder names, a line each; without such a list,
    `train` is everything. Names that fit no image or several are faults.
    """
    path = raw_dir / f"{split}.txt"
    if not (path.exists() or path.is_symlink()):
        if split == "train":
            return with_held_out_counted(raw_dir, found)
        raise JobError(
            f"--split: expected the list {path} for split {split!r}, got none",
            fix="write it, one image file name a line, or use --split train for all images",
        )
    names, keys = FileNames(found.files, found.folder), set[str]()
    bad = {problem.key for problem in found.problems}
    listed = read_names(path)
    for line, text in listed:
        fits = names.find(text)
        if len(fits) == 1:
            keys |= fits
        elif fits:
            both = ambiguous(fits, found.files, found.folder)
            fault = f"expected the name of one image, got {shown_name(text)}, which fits {both}"
            found.problems.append(Problem(f"{shown(path)}, line {line}", fault))
        elif named_key(text) not in bad:  # else named already
            hint = names.near(text) if len(found.problems) < MAX_SHOWN else ""
            fault = f"expected an image of the raw folder, got {shown_name(text)}{hint}"
            found.problems.append(Problem(f"{shown(path)}, line {line}", fault))
    if not listed:
        found.problems.append(Problem(shown(path), "expected names of images, got an empty list"))
    found.left_out[f"images that {path.name} does not name"] += len(found.files) - len(keys)
    found.files = {key: file for key, file in found.files.items() if key in keys}
    leave_unnamed_faults(found, path, keys, [text for _, text in listed])
    found.listed = True
    return found


def leave_unnamed_faults(
    found: FoundFiles, path: Path, keys: Collection[str], texts: Sequence[str]
) -> None:
    """Leave out the faults of files that a list does not name, and count them. A line may name a
    file below a folder."""
    named = {named_key(name) for text in texts for name in readings(text)} | set(keys)
    kept = [one for one in found.problems if not one.key or is_meant(one.key, named)]
    found.left_out[f"files with faults that {path.name} does not name"] += len(
        found.problems
    ) - len(kept)
    found.problems = kept


def with_held_out_counted(raw_dir: Path, found: FoundFiles) -> FoundFiles:
    """State how many of all images the lists of other splits name: they are trained on too."""
    for split in ("val", "test"):
        path = raw_dir / f"{split}.txt"
        if path.is_file():
            names = FileNames(found.files, found.folder)
            held_out = {key for one in read_names(path) for key in names.find(one.text)}
            reason = f"images that {path.name} names, since there is no train.txt"
            found.included[reason] += len(held_out)
    return found


def is_meant(key: str, named: Collection[str]) -> bool:
    """Return whether one of the names is a key, below another folder or with folders before it."""
    return any(
        f"_{key}".endswith(f"_{name}") or f"_{name}".endswith(f"_{key}") for name in named if name
    )


Find = Callable[[Path, str], FoundFiles]


def find_in(folder: str) -> Find:
    """Files lie in one folder."""
    return lambda raw_dir, _split: image_files(raw_dir / folder)


def find_in_first(*folders: str) -> Find:
    """Files lie in the first of the folders that is there."""

    def find(raw_dir: Path, split: str) -> FoundFiles:
        there = [folder for folder in folders if (raw_dir / folder).is_dir()]
        return find_in(there[0] if there else folders[0])(raw_dir, split)

    return find


def find_listed(find: Find) -> Find:
    """Splits are lists beside the folder (GTA5, SYNTHIA)."""
    return lambda raw_dir, split: picked(raw_dir, split, find(raw_dir, split))


def find_cityscapes(folder: str, ending: str, *others: str) -> Find:
    """Files lie in FOLDER/SPLIT/CITY/ and end in `ending`; the key is what comes before it.
    `others` are the endings of files that the dataset ships beside.
    """

    def find(raw_dir: Path, split: str) -> FoundFiles:
        found = FoundFiles(folder=raw_dir / folder / split)
        if not is_folder(found):
            return found
        paths = []
        for path in Walk(found).files():
            if path.name.endswith(ending) and path.parent.parent == found.folder:
                paths.append(path)
            elif not path.name.endswith(others):
                found.left_out[f"files that are not CITY/*{ending}"] += 1
        return keyed(found, paths, lambda path: key_of(Path(path.name), ending))

    return find


def find_camvid(ending: str) -> Find:
    """Files lie in SPLIT + ending."""
    return lambda raw_dir, split: image_files(raw_dir / f"{split}{ending}")


def find_folders(folder: str) -> Find:
    """Files lie in SPLIT/FOLDER, or in FOLDER with a list of the split beside it or none at all."""

    def find(raw_dir: Path, split: str) -> FoundFiles:
        below = raw_dir / split
        return image_files((below if below.is_dir() else raw_dir) / folder)

    return find


def find_listed_folders(folder: str) -> Find:
    """As `find_folders`, for images: those of a list where they are not below SPLIT."""

    def find(raw_dir: Path, split: str) -> FoundFiles:
        found = find_folders(folder)(raw_dir, split)
        listed = not (raw_dir / split).is_dir() and (found.files or found.problems)
        return picked(raw_dir, split, found) if listed else found

    return find


SPLIT = "SPLIT"
"""Stands for the split in a pattern."""
IMG = "IMG"
AS_NAMED: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def find_matching(*patterns: str, splits: Mapping[str, tuple[str, ...]] = AS_NAMED) -> Find:
    """Files of the first pattern whose folder is there, such as `gt/*/SPLIT/*/*_gt_labelIds.png`.

    A star fits a part of one name, IMG png or jpg; the parts that stars fit, joined by `_`, are
    the key. SPLIT is the split's name, or the alternatives that `splits` gives for it.
    """

    def find(raw_dir: Path, split: str) -> FoundFiles:
        names = splits.get(split, (split,))
        found = [find_pattern(raw_dir, one, names) for one in patterns]
        return next((one for one in found if one.any), found[0])

    return find


def find_pattern(raw_dir: Path, pattern: str, names: Sequence[str]) -> FoundFiles:
    """The files of one pattern, whose folders before the first star are fixed, and its split where
    it has one name.
    """
    parts = (pattern.replace(SPLIT, names[0]) if len(names) == 1 else pattern).split("/")
    fixed = next(n for n, part in enumerate(parts) if "*" in part or part == SPLIT)
    rest = "/".join(parts[fixed:])
    found = FoundFiles(folder=raw_dir.joinpath(*parts[:fixed]))
    if not is_folder(found):
        return found
    alternatives = "|".join(map(re.escape, names))
    text = (
        re.escape(rest)
        .replace(r"\*", "([^/]*)")
        .replace(SPLIT, f"(?:{alternatives})")
        .replace(IMG, "(?:png|jpg)")
    )
    keys: dict[Path, str] = {}
    for path in Walk(found).files():
        match = re.fullmatch(text, path.relative_to(found.folder).as_posix())
        if match:
            keys[path] = key_of(Path("_".join(match.groups())), "")
        else:
            found.left_out[f"files that are not {rest.replace(SPLIT, names[0])}"] += 1
    return keyed(found, keys, keys.__getitem__)
