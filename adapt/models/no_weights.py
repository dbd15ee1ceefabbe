"""Files that hold no weights: those of other kinds, known by their first bytes, other archives, and
damaged files of `torch.save`."""

import lzma
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

from safetensors import SafetensorError

from storage.errors import FixableError

STATE_DICT = "save model.state_dict() in the program that it comes from"
_HEAD_BYTES = 512
_BLOCK_BYTES = 1 << 20
_ASK_AGAIN = "download it again"
_DIRECT = "download the file itself, by its direct link"
_UNPACK = "unpack it"
_XML = "an XML document, as a store answers errors"
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself (git lfs pull)"),
    (b"<?xml", _XML, _DIRECT),
    (b"<error", _XML, _DIRECT),
    (b"<", "a web page", _DIRECT),
    (b"{", "a JSON document", _DIRECT),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"bzh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zxz", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"rar!", "a rar archive", _UNPACK),
    (b"(\xb5/\xfd", "a zstandard archive", _UNPACK),
    (b"\x89hdf", "an HDF5 file", "save its tensors as .safetensors"),
)
"""First bytes in lower case, what such a file is, and the fix."""
UNREADABLE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors of readers of damaged bytes: flipped bits lead torch, pickle and zipfile to any of them,
such as RuntimeError of an entry that says to be encrypted."""
_TAR = slice(257, 262)


class NoWeights(FixableError):
    """A file holds no weights; the problem says what it is instead."""


def refuse_others(path: Path) -> None:
    """Raise `NoWeights` for a file that `torch.save` has not written, or that is damaged."""
    _refuse_beginnings(first_bytes(path, _HEAD_BYTES))
    try:
        if zipfile.is_zipfile(path):
            _refuse_other_archives(path)
            _refuse_damaged_entries(path)
    except UNREADABLE as error:
        raise damaged(error) from error


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file. Raises `NoWeights` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise NoWeights(f"which cannot be read ({error.strerror})", "check the file") from error


def _refuse_beginnings(head: bytes) -> None:
    """Raise `NoWeights` for a file that begins as those of other kinds."""
    if not head:
        raise NoWeights("which is empty", _ASK_AGAIN)
    if head[_TAR] == b"ustar":
        raise NoWeights("which is a tar archive", _UNPACK)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # text of 16 bits a character
        head = head[2:].replace(b"\0", b"")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, what, fix in _OTHERS:
        if start.startswith(beginning):
            raise NoWeights(f"which is {what}", fix)


def _refuse_other_archives(path: Path) -> None:
    """Raise `NoWeights` for a zip archive that `torch.save` has not written."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    files = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in files:
        raise NoWeights("which is a TorchScript program", STATE_DICT)
    if "data.pkl" not in files:
        shown = ", ".join(names[:3])
        raise NoWeights(f"which is a zip archive of other files ({shown})", _UNPACK)


def _refuse_damaged_entries(path: Path) -> None:
    """Raise `NoWeights` where tensors differ from their checksums, which torch does not compare.

    Files that were written without checksums (`torch.serialization.set_crc32_options`) have none
    that is right.
    """
    bad = []
    with zipfile.ZipFile(path) as archive:
        entries = [one.filename for one in archive.infolist() if one.file_size]
        for name in entries:
            try:
                with archive.open(name) as file:
                    while file.read(_BLOCK_BYTES):
                        pass
            except UNREADABLE:
                bad.append(name)
    if bad and len(bad) < len(entries):
        raise NoWeights(f"which is damaged ({bad[0]} differs from its checksum)", _ASK_AGAIN)


def refused(text: str) -> NoWeights:
    """The refusal of a pickle, without torch's advice to trust the file."""
    blocked = re.search(r"GLOBAL (\S+) whose module", text)
    if blocked:
        return NoWeights(f"which cannot be read as one (it runs {blocked[1]})")
    return NoWeights(
        "which cannot be read as one (a pickle of other objects, or damaged)", _ASK_AGAIN
    )


def damaged(error: Exception) -> NoWeights:
    """The refusal of a file at which a reader failed."""
    reason = str(error).partition("\n")[0]
    if "weights_only" in reason:  # torch's advice to trust the file
        reason = "no file of torch.save"
    return NoWeights(f"which cannot be read as one ({reason})", _ASK_AGAIN)
