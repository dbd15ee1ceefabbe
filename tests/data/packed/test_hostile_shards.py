"""A stranger's split: whatever it says of itself, readers and `verify` refuse it by name, in
bounded memory and time. Each is written with checksums that agree, and read in a process of its
own.
"""

import dataclasses
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from adapt.data.packed.index import Index
from tests.data.packed import forged
from tests.data.packed.guarded import Guard, Outcome
from tests.data.packed.handmade import SHARD, SIZE_HW, Arrays, Page, Piece, piece, write_split

MOST_BYTES = 200_000_000
WIDE_HW = (1, 100_000)
LARGE_HW = (10_000, 10_000)
BOMB_BYTES = 300 << 20


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as opened:
        yield opened


def assert_refused(outcome: Outcome, ended: str, *words: str) -> None:
    assert outcome.ended == ended, outcome
    assert outcome.grown_bytes < MOST_BYTES, outcome
    for word in words:
        assert word in outcome.message, outcome


both = pytest.mark.parametrize("kind", ["read", "verify"])


@pytest.mark.slow
@both
def test_a_good_split_is_read(kind: str, guard: Guard, tmp_path: Path) -> None:
    write_split(tmp_path, [piece("a"), piece("b", "jpg"), piece("c", "png")])
    assert_refused(guard(kind, str(tmp_path)), "read")


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    "name",
    ["../shard.tar", "/etc/passwd", "..", "a/b.tar", "a\\b.tar", "s3://b/k", ".tmp-a", "a\0", ""],
)
def test_shards_outside_the_split(kind: str, name: str, guard: Guard, tmp_path: Path) -> None:
    def renamed(page: Page) -> Page:
        page["shards"][0]["name"] = name
        return page

    write_split(tmp_path, [piece("a")], manifest=renamed)
    assert_refused(guard(kind, str(tmp_path)), "DataError", "manifest.json: shards.0.name: ")


@both
@pytest.mark.parametrize("split", ["../train", "val", "/", ""])
def test_manifests_of_another_place(kind: str, split: str, guard: Guard, tmp_path: Path) -> None:
    write_split(tmp_path, [piece("a")], manifest=lambda page: page | {"split": split})
    assert_refused(guard(kind, str(tmp_path)), "DataError", "manifest.json: split: ")


@both
@pytest.mark.parametrize("key", ["../../a", "/a", "..", "a\\b", "\x1b[2J", ""])
def test_keys_that_climb(kind: str, key: str, guard: Guard, tmp_path: Path) -> None:
    def renamed(arrays: Arrays) -> Arrays:
        return arrays | {"keys": np.array([key])}

    write_split(tmp_path, [piece("a")], arrays=renamed)
    assert_refused(guard(kind, str(tmp_path)), "DataError", "index.npz: expected keys that are")


IMAGES: dict[str, tuple[str, bytes, tuple[int, int], str]] = {
    "wide qoi": ("qoi", forged.qoi_runs(WIDE_HW), WIDE_HW, "at most 32768 pixels"),
    "wide png": ("png", forged.png(WIDE_HW, 300_001), WIDE_HW, "at most 32768 pixels"),
    "wide jpg": ("jpg", forged.jpeg((16, 65_500)), (16, 65_500), "at most 32768 pixels"),
    "qoi of a few bytes": ("qoi", forged.qoi(LARGE_HW, bytes(99)), LARGE_HW, "cannot hold"),
    "jpg of a few bytes": ("jpg", forged.jpeg(LARGE_HW), LARGE_HW, "cannot hold"),
    "png of a few bytes": ("png", forged.png(LARGE_HW, 999), LARGE_HW, "truncated"),
    "qoi of nothing": ("qoi", b"qoif", SIZE_HW, "cannot be decoded as qoi"),
    "qoi of 2^64 pixels": ("qoi", forged.qoi((2**32 - 1,) * 2, b""), SIZE_HW, "cannot hold"),
    "png of 2^62 pixels": ("png", forged.png((2**31 - 1,) * 2, 9), SIZE_HW, "[2147483647, "),
    "png with a text": (
        "png",
        forged.png(
            SIZE_HW,
            430,
            [forged.png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(BOMB_BYTES), 9))],
        ),
        SIZE_HW,
        "too large",
    ),
    "png of two sizes": (
        "png",
        forged.png(SIZE_HW, 430, [forged.png_header(LARGE_HW)]),
        SIZE_HW,
        "got [10000, 10000]",
    ),
    "jpg of 2000 scans": (
        "jpg",
        forged.endless_jpeg((512, 512), 2000),
        (512, 512),
        "expected at most 500 scans",
    ),
    "postscript": ("png", b"%!PS-Adobe-3.0 EPSF-3.0\n", SIZE_HW, "cannot be decoded as png"),
}
"""Suffix, bytes, the size that the index says, and a part of the message."""


@both
@pytest.mark.parametrize("case", IMAGES)
def test_images_that_lie(case: str, kind: str, guard: Guard, tmp_path: Path) -> None:
    suffix, data, size_hw, message = IMAGES[case]
    pixels = size_hw[0] * size_hw[1] % 2**32
    write_split(tmp_path, [Piece("bad", suffix, data, b"none", size_hw, (pixels,))])
    assert_refused(guard(kind, str(tmp_path)), "DataError", "bad", message)


@both
@pytest.mark.parametrize("case", [name for name in IMAGES if "wide" in name or "few" in name])
def test_images_of_another_size_than_the_index_says(
    case: str, kind: str, guard: Guard, tmp_path: Path
) -> None:
    suffix, data, _, _ = IMAGES[case]
    write_split(tmp_path, [piece("bad")._replace(suffix=suffix, image=data)])
    assert_refused(guard(kind, str(tmp_path)), "DataError", f"{SHARD}: bad: ")


PIXELS = SIZE_HW[0] * SIZE_HW[1]
GOOD_LABEL = piece("bad").label
LABELS: dict[str, tuple[bytes, str]] = {
    "bomb": (
        zstandard.ZstdCompressor().compress(bytes(BOMB_BYTES)),
        f"got {BOMB_BYTES}",
    ),
    "claims more": (forged.zstd(PIXELS, 2**32 - 1), "pixels, got 4294967295"),
    "claims less": (
        forged.zstd(BOMB_BYTES, PIXELS),
        "the label cannot be decoded as zstandard",
    ),
    "no length": (
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(BOMB_BYTES)),
        "pixels, got -1",
    ),
    "window": (forged.zstd_window(PIXELS, 27), "too much memory"),
    "second frame": (GOOD_LABEL + GOOD_LABEL, "unused data"),
    "skippable frame": (b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + GOOD_LABEL, "pixels, got 0"),
}


@both
@pytest.mark.parametrize("case", LABELS)
def test_labels_that_lie(case: str, kind: str, guard: Guard, tmp_path: Path) -> None:
    data, message = LABELS[case]
    write_split(tmp_path, [piece("bad")._replace(label=data)])
    assert_refused(guard(kind, str(tmp_path)), "DataError", f"{SHARD}: bad: ", "label ", message)


def test_a_large_label_is_counted_in_bounded_memory(guard: Guard, tmp_path: Path) -> None:
    pixels = LARGE_HW[0] * LARGE_HW[1]
    label = zstandard.ZstdCompressor().compress(bytes(pixels))
    image = forged.qoi(LARGE_HW, b"")
    write_split(tmp_path, [Piece("bad", "qoi", image, label, LARGE_HW, (pixels,))])
    assert_refused(guard("verify", str(tmp_path)), "DataError", "cannot hold")


TARS: dict[str, Callable[[bytes], bytes]] = {
    "a path that climbs": lambda shard: forged.edit_header(shard, 0, b"../../outside\0"),
    "an absolute path": lambda shard: forged.edit_header(shard, 0, b"/tmp/outside\0"),
    "a symlink": lambda shard: forged.as_type(shard, tarfile.SYMTYPE, b"/etc/passwd"),
    "a hard link": lambda shard: forged.as_type(shard, tarfile.LNKTYPE, b"/etc/passwd"),
    "a device": lambda shard: forged.as_type(shard, tarfile.CHRTYPE),
    "a folder": lambda shard: forged.as_type(shard, tarfile.DIRTYPE),
    "a huge member": lambda shard: forged.sized(shard, 2**62),
    "a negative size": lambda shard: forged.edit_header(shard, 124, b"\xff" * 12),
    "a huge name": lambda shard: forged.sized(shard, 2**34, tarfile.GNUTYPE_LONGNAME),
    "a huge header": lambda shard: forged.sized(shard, 2**34, tarfile.XHDTYPE),
    "a sparse file": lambda shard: forged.as_type(shard, tarfile.GNUTYPE_SPARSE),
    "nothing": lambda shard: b"\0" * 512 + shard[512:],
}


@pytest.mark.parametrize("case", TARS)
def test_tars_that_lie(case: str, guard: Guard, tmp_path: Path) -> None:
    write_split(tmp_path / "packed", [piece("a"), piece("b")], shard=TARS[case])
    before = sorted(tmp_path.rglob("*"))
    assert_refused(guard("verify", str(tmp_path / "packed")), "DataError", SHARD)
    assert_refused(guard("read", str(tmp_path / "packed")), "read")
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/outside").exists()


@both
@pytest.mark.parametrize("name", ["manifest.json", "index.npz", SHARD])
@pytest.mark.parametrize("what", ["zeros", "pipe", "folder", "nowhere"])
def test_files_that_are_none(what: str, name: str, kind: str, guard: Guard, tmp_path: Path) -> None:
    write_split(tmp_path, [piece("a")])
    path = tmp_path / "train" / name
    path.unlink()
    make: dict[str, Callable[[], Any]] = {
        "zeros": lambda: path.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "nowhere": lambda: path.symlink_to(tmp_path / "nowhere"),
    }
    make[what]()
    outcome = guard(kind, str(tmp_path))
    assert outcome.ended in ("DataError", "StoreError", "MissingObject"), outcome
    assert outcome.grown_bytes < MOST_BYTES and name in outcome.message, outcome


@both
@pytest.mark.parametrize(
    "text", [b"[" * 1_000_000, b'{"a":' * 100_000, b"9" * 100_000, b'"' + b"a" * (17 << 20) + b'"']
)
def test_manifests_that_exhaust(text: bytes, kind: str, guard: Guard, tmp_path: Path) -> None:
    write_split(tmp_path, [piece("a")], text=lambda _: text)
    assert_refused(guard(kind, str(tmp_path)), "DataError", "train/manifest.json: ")


@both
@pytest.mark.parametrize("name", ["manifest.json", "index.npz"])
def test_objects_larger_than_any(name: str, kind: str, guard: Guard, tmp_path: Path) -> None:
    write_split(tmp_path, [piece("a")])
    os.truncate(tmp_path / "train" / name, 2 << 30)
    assert_refused(guard(kind, str(tmp_path)), "DataError", f"train/{name}: ")


@pytest.mark.slow
@both
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_indexes_that_exhaust(
    save: Callable[..., None], kind: str, guard: Guard, tmp_path: Path
) -> None:
    buffer, names = io.BytesIO(), [field.name for field in dataclasses.fields(Index)]
    large = np.zeros(BOMB_BYTES if save is np.savez_compressed else 1, np.uint8)
    arrays = dict.fromkeys(names, np.zeros(1, object)) | {"keys": large}
    save(buffer, **arrays)
    write_split(tmp_path, [piece("a")], index=lambda _: buffer.getvalue())
    assert_refused(
        guard(kind, str(tmp_path)),
        "DataError",
        "train/index.npz: expected an index, got a damaged or other file",
    )


@pytest.mark.slow
@both
@pytest.mark.parametrize("size_bytes", [2**40, 2**63, -1, 0, 1e300])
def test_shards_of_impossible_sizes(
    size_bytes: float, kind: str, guard: Guard, tmp_path: Path
) -> None:
    def resized(page: Page) -> Page:
        page["shards"][0]["size_bytes"] = size_bytes
        return page

    write_split(tmp_path, [piece("a")], manifest=resized)
    outcome = guard(kind, str(tmp_path))
    assert outcome.ended in ("DataError", "StoreError"), outcome
    assert "size" in outcome.message or "bytes" in outcome.message, outcome


@pytest.mark.parametrize(
    ("kind", "ended"), [("starve", "MemoryError"), ("crash", "SIGSEGV"), ("hang", "SIGALRM")]
)
def test_what_must_not_be_would_be_seen(kind: str, ended: str, guard: Guard) -> None:
    assert guard(kind, "k", limit_s=1).ended == ended


@pytest.mark.slow
def test_a_hog_would_be_seen(guard: Guard) -> None:
    assert guard("hog", "k").grown_bytes > MOST_BYTES
