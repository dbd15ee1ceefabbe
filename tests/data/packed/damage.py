"""Seeded damage to what a split is made of: bytes, PNG chunks, JSON values, arrays."""

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.data.packed import forged
from tests.data.packed.handmade import Arrays, Page

NUMBERS = tuple(
    sign * (1 << bits) + more
    for bits in (0, 7, 8, 15, 16, 28, 31, 32, 53, 63, 64, 100)
    for sign in (1, -1)
    for more in (-1, 0, 1)
)
TEXTS = ("", "..", "../a", "/etc/passwd", "a/b", "a\\b", "\0", "é\u202e", "a" * 5000, "-1", "%s")
VALUES = (*NUMBERS, *TEXTS, None, True, 0.5, 1e308, float("nan"), [], {}, [[]], {"a": []})
JUNK = (b"\0", b"\xff", b"qoif", b"\xff\xda\xff\xc0", b"PK\5\6", b"IHDR", b"\x28\xb5\x2f\xfd")


def flipped(data: bytearray, rng: random.Random) -> bytearray:
    """A few bytes changed."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    """Truncated, at the end or inside."""
    start = rng.randrange(len(data))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[start + rng.randrange(64) :]


def longer(data: bytearray, rng: random.Random) -> bytearray:
    """Junk or a part of itself put in, once or many times."""
    start, place = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    more = rng.choice((rng.choice(JUNK), rng.randbytes(9), bytes(data[start : start + 99])))
    return data[:place] + more * rng.choice((1, 1, 3, 1000)) + data[place:]


def spliced(data: bytearray, rng: random.Random) -> bytearray:
    """A part of itself written over another."""
    start, place, length = (rng.randrange(len(data)) for _ in range(3))
    part = data[start : start + length]
    return data[:place] + part + data[place + len(part) :]


def renumbered(data: bytearray, rng: random.Random) -> bytearray:
    """An integer of some width, most often in the header, made extreme."""
    kind = rng.choice(("B", ">H", "<H", ">I", "<I", ">Q", "<Q"))
    size = struct.calcsize(kind)
    place = rng.randrange(rng.choice((min(40, len(data)), len(data))))
    value = rng.choice(NUMBERS) % (1 << 8 * size)
    return data[:place] + struct.pack(kind, value) + data[place + size :]


BYTE_DAMAGES: Sequence[Callable[[bytearray, random.Random], bytearray]] = (
    flipped,
    cut,
    longer,
    spliced,
    renumbered,
    renumbered,
)


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Any bytes, damaged once or more."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        if data:
            data = bytes(rng.choice(BYTE_DAMAGES)(bytearray(data), rng))
    return data


def damaged_png(data: bytes, rng: random.Random) -> bytes:
    """A PNG with a chunk damaged, doubled or lost, and its checksum made to agree."""
    chunks, place = [], len(forged.PNG_START)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += length + 12
    chunks = chunks or [(b"IEND", b"")]
    which = rng.randrange(len(chunks))
    kind, content = chunks[which]
    kind = rng.choice((kind, kind, kind, b"IHDR", b"tRNS", b"PLTE", b"iCCP", b"acTL", b"fcTL"))
    changed = (kind, damaged_bytes(content, rng))
    chunks[which : which + rng.randrange(2)] = [changed] * rng.choice((1, 1, 1, 2, 0))
    return forged.PNG_START + b"".join(forged.png_chunk(*chunk) for chunk in chunks)


def damaged_image(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """An image's bytes, damaged as its format allows."""
    if suffix == "png" and data.startswith(forged.PNG_START) and rng.random() < 0.7:
        return damaged_png(data, rng)
    return damaged_bytes(data, rng)


def damaged_page(page: Page, rng: random.Random) -> Page:
    """A manifest with a value replaced, lost or added somewhere."""
    page = json.loads(json.dumps(page))
    place: Any = page
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    change = rng.choice(("set", "set", "set", "lose", "add"))
    if change == "lose":
        del place[key]
    elif change == "add" and isinstance(place, dict):
        place[str(rng.choice(VALUES))] = rng.choice(VALUES)
    else:
        place[key] = rng.choice(VALUES)
    return page


def damaged_arrays(arrays: Arrays, rng: random.Random) -> Arrays:
    """An index with an element made extreme, or an array of another length, order or type."""
    name = rng.choice(list(arrays))
    values = arrays[name].copy()
    change = rng.choice(("element",) * 5 + ("shorter", "longer", "turned", "type", "axes"))
    if change == "element":
        values = with_element(values, rng)
    elif change == "type":
        values = values.astype("U9" if values.dtype.kind != "U" else "S9").astype("S9")
    else:
        values = {
            "shorter": values[:-1],
            "longer": np.concatenate([values, values]),
            "turned": values[::-1],
            "axes": values[..., None],
        }[change]
    return arrays | {name: values}


def with_element(values: np.ndarray, rng: random.Random) -> np.ndarray:
    """One element replaced by a text or an extreme number, modulo what its type holds."""
    place = rng.randrange(values.size)
    if values.dtype.kind == "U":
        texts = values.tolist()
        texts[place] = rng.choice((*TEXTS, "qoi", "png", "jpg", texts[0]))
        return np.array(texts, np.str_)
    number = rng.choice((*NUMBERS, int(values.flat[place]) + rng.choice((-1, 1, 512))))
    size = 8 * values.dtype.itemsize
    values.flat[place] = np.array(number % (1 << size), np.uint64).astype(values.dtype)
    return values
