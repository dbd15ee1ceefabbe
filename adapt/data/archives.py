"""Zip archives read in place, as owners ship them: `leftImg8bit.zip+gtFine.zip`, or a folder of
zips. Nothing is unpacked.

A raw folder becomes a path whose methods find files in the archives too; real files go before
them. Keys and sizes are those of the unpacked files, so a packing is the same either way.
"""

import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

from adapt.errors import DataError

SUFFIX = ".zip"
ENCRYPTED = 1
"""Bit of a member's flags."""


class Member(NamedTuple):
    """A file in an archive, by its number."""

    archive: int
    info: zipfile.ZipInfo


class Archives:
    """The files of several archives as one tree of folders."""

    def __init__(self, root: str, paths: Sequence[Path]) -> None:
        self.root, self.paths = root, paths
        self._files = [opened(path) for path in paths]
        self.folders: dict[str, dict[str, Member | None]] = {"": {}}
        for number, file in enumerate(self._files):
            for info in file.infolist():
                self._add(Member(number, info))

    def _add(self, member: Member) -> None:
        parts = [part for part in member.info.filename.split("/") if part not in ("", ".")]
        if ".." in parts or not parts:
            return
        last = len(parts) if member.info.is_dir() else len(parts) - 1
        for depth in range(last):
            self.folders.setdefault("/".join(parts[:depth]), {}).setdefault(parts[depth], None)
            self.folders.setdefault("/".join(parts[: depth + 1]), {})
        if not member.info.is_dir():
            self._add_file("/".join(parts[:-1]), parts[-1], member)

    def _add_file(self, folder: str, name: str, member: Member) -> None:
        """Two archives may have one file twice, such as a licence, but not two of one name."""
        other = self.folders[folder].setdefault(name, member)
        if other is not None and other.info.CRC != member.info.CRC:
            both = " and ".join(self.paths[one.archive].name for one in (other, member))
            if name.lower().endswith((".png", ".jpg")):
                raise DataError(
                    f"{self.root}: expected one file {folder}/{name}, got two that differ, in "
                    f"{both}",
                    fix="name the archives of one dataset, each once",
                )

    def member(self, inner: str) -> Member | None:
        """The file at a path below the root."""
        folder, _, name = inner.rpartition("/")
        return self.folders.get(folder, {}).get(name)

    def read(self, member: Member, path: Path) -> bytes:
        """The bytes of a file, their checksum compared. `OSError` where it is damaged."""
        if member.info.flag_bits & ENCRYPTED:
            raise OSError(f"{path}: encrypted with a password")
        try:
            return self._files[member.archive].read(member.info)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(f"damaged in its archive: {error}") from error


def opened(path: Path) -> zipfile.ZipFile:
    """An archive. `DataError` where it is none."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path}: expected a zip archive, got: {error}",
            fix="download it again, and compare its size with the owner's",
        ) from error


class ArchivePath(type(Path())):  # type: ignore[misc]
    """A path below a raw folder with archives. Paths made from it are of its class, and so know
    them."""

    archives: ClassVar[Archives]

    @property
    def inner(self) -> str:
        """The path below the root; a path elsewhere has none and is no folder of an archive."""
        text, root = str(self), self.archives.root
        if text == root:
            return ""
        return text[len(root) + 1 :] if text.startswith(f"{root}/") else "/"

    @property
    def _real(self) -> bool:
        """True for what lies on the disk; an archive that is the root is a folder here."""
        return os.path.lexists(self) and (self.inner != "" or not is_archive(self.name))

    def _member(self) -> Member | None:
        return None if self._real else self.archives.member(self.inner)

    def is_dir(self) -> bool:
        """Return whether it is a folder, of the disk or of an archive."""
        return stat.S_ISDIR(self._mode())

    def is_file(self) -> bool:
        """Return whether it is a file, of the disk or of an archive."""
        return stat.S_ISREG(self._mode())

    def exists(self) -> bool:
        """Return whether it is there, on the disk or in an archive."""
        return self._mode() != 0

    def _mode(self) -> int:
        """The kind and rights; 0 where nothing is there."""
        try:
            return self.stat().st_mode
        except (OSError, ValueError):
            return 0

    def stat(self, **options: Any) -> os.stat_result:
        """The status of a file; of an archive's, size and kind alone are right."""
        member = self._member()
        there = member is not None or self.inner in self.archives.folders
        if self._real or not there:
            return super().stat(**options)
        number = hash(self.inner) & 0x7FFFFFFF
        if member is None:
            return os.stat_result((stat.S_IFDIR, number, -1, 1, 0, 0, 0, 0, 0, 0))
        size = member.info.file_size
        return os.stat_result((stat.S_IFREG, number, -1, 1, 0, 0, size, 0, 0, 0))

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:
        """Open a file; one of an archive for reading bytes."""
        member = self._member()
        if member is None:
            return super().open(mode, *arguments, **options)
        assert mode == "rb", "files of archives are read as bytes"
        return io.BytesIO(self.archives.read(member, self))

    def read_bytes(self) -> bytes:
        """The bytes of a file."""
        with self.open("rb") as file:
            return bytes(file.read())

    def scan(self) -> "Iterator[Entry]":
        """The entries of a folder, of the disk and of archives, by name."""
        names = set(self.archives.folders.get(self.inner, {}))
        if self._real:
            names |= {one.name for one in os.scandir(self) if not is_archive(one.name)}
        for name in sorted(names):
            yield Entry(name, self / name)


class Entry(NamedTuple):
    """An entry of a folder as `os.scandir` gives it."""

    name: str
    path: Path

    def is_symlink(self) -> bool:
        """Return whether it is a link."""
        return self.path.is_symlink()

    def is_dir(self) -> bool:
        """Return whether it is a folder, or a link to one."""
        return self.path.is_dir()

    def is_file(self) -> bool:
        """Return whether it is a file, or a link to one."""
        return self.path.is_file()

    def stat(self) -> os.stat_result:
        """The status of the file or folder."""
        return self.path.stat()


def is_archive(name: str) -> bool:
    """Return whether a name is that of a zip archive."""
    return name.lower().endswith(SUFFIX) and not name.startswith(".")


def with_archives(raw_dir: Path) -> Path:
    """A raw folder as a path that reads its zip archives; a folder without any as it is.

    Raises `DataError` for an archive that cannot be read, or two whose files contradict.
    """
    if isinstance(raw_dir, ArchivePath):
        return raw_dir
    paths = archives_of(raw_dir)
    if not paths:
        return raw_dir
    raw_dir = raw_dir if raw_dir.parts else raw_dir.absolute()  # paths below "." do not show it
    archives = Archives(str(raw_dir), paths)
    kind = type("ArchivePath", (ArchivePath,), {"archives": archives})
    found: Path = kind(raw_dir)
    return found


def archives_of(raw_dir: Path) -> list[Path]:
    """The archives that a path names, joined by `+`, or that lie in a folder."""
    if raw_dir.is_dir():
        return sorted(path for path in raw_dir.iterdir() if is_archive(path.name))
    parts = re.split(r"(?<=\.zip)\+", str(raw_dir), flags=re.IGNORECASE)
    if not all(is_archive(part) for part in parts):
        return []
    first = Path(parts[0])
    return [first, *(beside(first, part) for part in parts[1:])]


def beside(first: Path, text: str) -> Path:
    """An archive by its path, or by its name beside the first one."""
    path = Path(text)
    return path if path.exists() or not (first.parent / text).exists() else first.parent / text


def readable(path: Path) -> Path | IO[bytes]:
    """The argument for Pillow: the path of a file on the disk, the bytes of one in an archive."""
    return path.open("rb") if isinstance(path, ArchivePath) else path
