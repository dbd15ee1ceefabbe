"""The last unit of containers that state no length, a packet of a transport stream or a page of
Ogg, and the size that WMV states, without which FFmpeg believes no length of it.

A file that was cut anywhere but between two units ends within one. Only bytes that begin as a unit
count, so that what others append behind the last one is no damage.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_SYNC = b"\x47"
_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Bytes of a transport stream's packet, and where its sync byte stands."""
_ASF = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""The first bytes of a WMV's properties; 40 bytes later stands its size, 88 later its flags."""
_ASF_HEAD, _ASF_SHARE = 1 << 16, 0.95
"""Bytes that are searched for it, and how much of the size FFmpeg wants before it believes it."""
_OGG, _OGG_HEADER, _OGG_PAGE = b"OggS", 27, 65_307
"""The first bytes of a page of Ogg, the length of its header, and that of the longest page."""


def ends_within_a_unit(form: str, path: Path) -> bool:
    """Return whether a file is cut within a unit, or far below its size; False for containers
    without a row.

    `form` is FFmpeg's name of the container. Raises `OSError`.
    """
    if form not in _ENDS:
        return False
    with path.open("rb") as file:
        return _ENDS[form](file, path.stat().st_size)


def _transport_stream(file: BinaryIO, size: int) -> bool:
    for length, sync in _PACKETS:
        starts = [number * length + sync for number in range(3)]
        if all(_byte(file, at) == _SYNC for at in starts):
            last = size - size % length
            return _byte(file, last - length + sync) == _byte(file, last + sync) == _SYNC
    return False


def _ogg(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - 2 * _OGG_PAGE))
    tail = file.read()
    page = tail[tail.rfind(_OGG) :] if _OGG in tail else b""
    if len(page) < _OGG_HEADER:
        return bool(page)
    segments = page[_OGG_HEADER - 1]
    lengths = page[_OGG_HEADER : _OGG_HEADER + segments]
    return len(lengths) < segments or len(page) < _OGG_HEADER + segments + sum(lengths)


def _asf(file: BinaryIO, size: int) -> bool:
    head = file.read(_ASF_HEAD)
    found = head[head.index(_ASF) :] if _ASF in head else b""
    stated, flags = (int.from_bytes(found[at : at + 8], "little") for at in (40, 88))
    is_live = bool(flags & 1)
    return not is_live and size < _ASF_SHARE * stated


def _byte(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(1)


_ENDS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "asf": _asf,
    "mpegts": _transport_stream,
    "ogg": _ogg,
}
