"""The units of a video file one behind the other: the elements of Matroska and WebM, the tags of
FLV, the packets of WMV, the boxes of a fragmented MP4.

FFmpeg looks for the next unit behind a hole without a message, so a hole shows only where one unit
does not end at the beginning of another. What lies within a unit is not read, but for Matroska's
clusters, which may have a checksum.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

_UNKNOWN = -1
"""The length of a Matroska element that states none, as in a live recording."""
_SEGMENT, _CLUSTER, _CHECKSUM = 0x18538067, 0x1F43B675, 0xBF
_IN_BOTH = {0xEC, _CHECKSUM}
_IN_SEGMENT = {
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1254C367, 0x1043A770),
    *(0x1941A469, 0x1B538667, *_IN_BOTH),
}
_IN_CLUSTER = {0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF, *_IN_BOTH}
"""Ids of elements that a segment and a cluster may have (RFC 9559, 5)."""
_TAG_HEADER, _TAG_KINDS = 11, {8, 9, 15, 18}
"""Bytes before a tag's data, and its kinds: sound, pictures, texts (Adobe's FLV 10.1, E.4)."""
_FILE, _DATA = (
    bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"),
    bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"),
)
"""The first bytes of a WMV's objects with its properties and with its packets (ASF, 10.1)."""
_ASF_HEAD, _ASF_MARK, _LIVE = 1 << 20, b"\x82\0\0", 1
_BOXES = {
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"ssix"),
    *(b"mfra", b"emsg", b"prft", b"uuid", b"pdin", b"meta", b"udta", b"imda"),
}
_PART = 1 << 20


def has_broken_units(form: str, path: Path) -> bool:
    """Return whether a unit of a file does not end where the next one begins, ends behind the
    file, or differs from its checksum; False for containers without a row.

    `form` is FFmpeg's name of the container. Raises `OSError`.
    """
    if form not in _WALKS:
        return False
    with path.open("rb") as file:
        return _WALKS[form](file, path.stat().st_size)


class _Element(NamedTuple):
    """An element of Matroska: its id, where its content begins, and its length in bytes."""

    name: int
    start: int
    length: int


def _matroska(file: BinaryIO, size: int) -> bool:
    header = _element(file, 0)
    if header is None:
        return True
    segment = _element(file, header.start + header.length)
    if segment is None or segment.name != _SEGMENT:
        return True
    states_end = segment.length != _UNKNOWN
    end = segment.start + segment.length if states_end else size
    at, parents = segment.start, _IN_SEGMENT
    while at < end:
        found = _element(file, at)
        if found is not None and found.name in _IN_SEGMENT:
            parents = _IN_SEGMENT  # which ends a cluster without a length
        if found is None or found.name not in parents:
            return True
        if found.name == _CLUSTER and found.length == _UNKNOWN:
            at, parents = found.start, _IN_CLUSTER | _IN_SEGMENT
            continue
        at = found.start + found.length
        if at > size or (found.name == _CLUSTER and _is_broken_cluster(file, found)):
            return True
    return False


def _is_broken_cluster(file: BinaryIO, cluster: _Element) -> bool:
    at, end = cluster.start, cluster.start + cluster.length
    while at < end:
        found = _element(file, at)
        if found is None or found.name not in _IN_CLUSTER or found.length == _UNKNOWN:
            return True
        is_first, at = at == cluster.start, found.start + found.length
        if found.name == _CHECKSUM and is_first and found.length == 4:
            file.seek(found.start)
            stated = int.from_bytes(file.read(4), "little")
            if _checksum(file, end - at) != stated:
                return True
    return at != end


def _checksum(file: BinaryIO, length: int) -> int:
    """The CRC-32 of the next bytes."""
    found = 0
    while length > 0 and (part := file.read(min(length, _PART))):
        found, length = zlib.crc32(part, found), length - len(part)
    return found


def _element(file: BinaryIO, at: int) -> _Element | None:
    """The element that begins there; None where none does (RFC 8794, 4 to 6)."""
    file.seek(at)
    head = file.read(12)
    name_bytes = _width(head[:1])
    if not 1 <= name_bytes <= 4 or len(head) <= name_bytes:
        return None
    rest = head[name_bytes:]
    length_bytes = _width(rest[:1])
    if length_bytes == 0 or len(rest) < length_bytes:
        return None
    marked = int.from_bytes(rest[:length_bytes], "big")
    most = (1 << 7 * length_bytes) - 1
    length = marked & most
    name = int.from_bytes(head[:name_bytes], "big")
    start = at + name_bytes + length_bytes
    return _Element(name, start, _UNKNOWN if length == most else length)


def _width(first: bytes) -> int:
    """The bytes of a number of variable width by its first one; 0 where it begins none."""
    return 9 - first[0].bit_length() if first and first[0] else 0


def _flv(file: BinaryIO, size: int) -> bool:
    file.seek(5)
    at = int.from_bytes(file.read(4), "big") + 4
    while at < size:
        file.seek(at)
        head = file.read(_TAG_HEADER)
        kind = head[0] & 0x1F
        if len(head) < _TAG_HEADER or kind not in _TAG_KINDS or head[8:11] != bytes(3):
            return True
        at += _TAG_HEADER + int.from_bytes(head[1:4], "big") + 4
    return at - 4 > size  # the length behind the last tag may be missing


def _asf(file: BinaryIO, size: int) -> bool:
    head = file.read(_ASF_HEAD)
    properties, data = head.find(_FILE), head.find(_DATA)
    if min(properties, data) < 0:
        return False
    flags, packet = (
        int.from_bytes(head[at : at + 4], "little") for at in (properties + 88, properties + 92)
    )
    length = int.from_bytes(head[data + 16 : data + 24], "little")
    first, end = data + 50, size if flags & _LIVE or not length else data + length
    file.seek(first)
    if not packet or file.read(3) != _ASF_MARK:
        return False
    for at in range(first, min(end, size), packet):
        file.seek(at)
        if file.read(3) != _ASF_MARK:
            return True
    return bool(flags & _LIVE) and (size - first) % packet != 0


def _fragments(file: BinaryIO, size: int) -> bool:
    at, fragments = 0, 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if name not in _BOXES or 0 < length < 8:
            return fragments > 0 and _finds(file, at, b"moof")
        fragments += name == b"moof"
        at = at + length if length else size
    return fragments > 0 and at > size


def _finds(file: BinaryIO, at: int, wanted: bytes) -> bool:
    """Return whether bytes stand anywhere behind a place."""
    file.seek(at)
    before = b""
    while part := file.read(_PART):
        if wanted in before + part:
            return True
        before = part[-len(wanted) :]
    return False


_WALKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "asf": _asf,
    "flv": _flv,
    "matroska": _matroska,
    "mov": _fragments,
}
