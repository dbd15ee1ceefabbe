"""The image files of a folder under the keys of their samples. Nothing that is in the folder is
skipped in silence: it is a file, a fault, or counted as left out.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adapt.data.archives import ArchivePath, Entry
from adapt.data.problems import Problem, shown
from adapt.data.raw_images import IMAGE_SUFFIXES
from adapt.data.split_lists import Files, without_suffix

MAX_KEY_BYTES = 92
"""A member of a tar has a name of at most 100 bytes, `KEY.img.qoi`."""
HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
"""Folders of systems; all other hidden names start with a dot."""
NO_IMAGES = "files that are no images"


@dataclass
class FoundFiles:
    """The files of one kind in a raw folder. `listed`: a list picked them."""

    files: Files = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    included: Counter[str] = field(default_factory=Counter)
    folder: Path = Path()
    listed: bool = False

    @property
    def any(self) -> bool:
        """True where files of this kind are there, even if none can be packed."""
        others = any(NO_IMAGES in reason for reason in self.left_out)
        return bool(self.files or self.problems or others)


class Walk:
    """Visits a folder and all below it, through links too; a link to a folder above is not
    followed. Faults and what is left out go to `found`.
    """

    def __init__(self, found: FoundFiles) -> None:
        self.found = found

    def files(self) -> Iterator[Path]:
        """Regular files, folder by folder."""
        above = self.found.folder.resolve().parents
        yield from self._below(
            self.found.folder, tuple(identity_of(one.stat()) for one in above if one.exists())
        )

    def _below(self, folder: Path, above: "tuple[Identity, ...]") -> Iterator[Path]:
        try:
            entries = sorted(entries_of(folder), key=lambda entry: entry.name)
            chain = (*above, identity_of(folder.stat()))
        except OSError as error:
            self._fault(folder, f"cannot be read: {error.strerror}")
            return
        for entry in entries:
            yield from self._entry(entry, folder / entry.name, chain)

    def _entry(
        self, entry: "os.DirEntry[str] | Entry", path: Path, chain: "tuple[Identity, ...]"
    ) -> Iterator[Path]:
        if entry.name.startswith(".") or entry.name in HIDDEN:
            self.found.left_out["hidden files or folders, such as .DS_Store and ._a.png"] += 1
        elif entry.is_symlink() and not path.exists():
            self._fault(path, broken_link(path))
        elif entry.is_dir():
            if identity_of(entry.stat()) in chain:
                self.found.left_out["links to a folder that holds them"] += 1
            else:
                yield from self._below(path, chain)
        elif entry.is_file():
            yield path
        else:
            self._fault(path, "expected a file, got a device, pipe or socket")

    def _fault(self, path: Path, text: str) -> None:
        key = key_of(path.relative_to(self.found.folder), path.suffix)
        self.found.problems.append(Problem(shown(path), text, key))


def entries_of(folder: Path) -> "Iterable[os.DirEntry[str] | Entry]":
    """The entries of a folder, on the disk or in an archive."""
    return folder.scan() if isinstance(folder, ArchivePath) else os.scandir(folder)


Identity = tuple[int, int]
"""Device and inode, the same through every link."""


def identity_of(status: os.stat_result) -> Identity:
    """The identity of a file or folder."""
    return status.st_dev, status.st_ino


def is_folder(found: FoundFiles) -> bool:
    """Return whether the folder is there; something else in its place is a fault."""
    folder = found.folder
    if folder.is_symlink() and not folder.exists():
        found.problems.append(Problem(shown(folder), broken_link(folder)))
    elif folder.exists() and not folder.is_dir():
        found.problems.append(Problem(shown(folder), "expected a folder, got a file"))
    return folder.is_dir()


def broken_link(path: Path) -> str:
    """The fault of a link that leads nowhere, or to itself."""
    try:
        return f"a link to {shown(path.readlink())}, which is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def key_of(relative: Path, ending: str) -> str:
    """The key of a file: its path without `ending`, slashes and dots made `_` and `-`, letters
    composed (Macs store them apart). (WebDataset ends a sample's key at the first dot.)
    """
    stem = relative.as_posix().removesuffix(ending)
    return unicodedata.normalize("NFC", stem.replace("/", "_").replace(".", "-"))


def named_key(text: str) -> str:
    """The key of a file by its name below the folder, with or without suffix."""
    return key_of(Path(without_suffix(text)), "")


def key_fault(key: str) -> str | None:
    """The reason why a tar or a reader would not take a key, None where they take it."""
    try:
        length_bytes = len(key.encode())
    except UnicodeEncodeError:
        return "expected a name in UTF-8, got other bytes"
    if "\\" in key:
        return "expected a name without backslashes"
    if not key.isprintable():
        found = next(letter for letter in key if not letter.isprintable())
        return f"expected a name of printable characters, got {found!a}"
    if length_bytes > MAX_KEY_BYTES:
        return f"expected a key of at most {MAX_KEY_BYTES} bytes, got {length_bytes}"
    return None if key else "expected a name before the suffix"


def keyed(found: FoundFiles, paths: Iterable[Path], key: Callable[[Path], str]) -> FoundFiles:
    """Fill in the files under their keys; bad names and two files of one key are faults."""
    for path in sorted(paths):
        name = key(path)
        fault = key_fault(name)
        if fault is None and name in found.files:
            fault = f"expected a key of its own, got {name!r} as of {shown(found.files[name])}"
        if fault is not None:
            found.problems.append(Problem(shown(path), fault, name))
        else:
            found.files[name] = path
    return found


def image_files(folder: Path) -> FoundFiles:
    """All image files in and under a folder; none where there is no folder."""
    found = FoundFiles(folder=folder)
    if not is_folder(found):
        return found
    images = []
    for path in Walk(found).files():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            found.left_out[f"{NO_IMAGES} ({shown(path.suffix or path.name)})"] += 1
    return keyed(found, images, lambda path: key_of(path.relative_to(folder), path.suffix))
