"""Labels are read as the numbers that were written, or refused by name."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.problems import BadFiles
from adapt.data.raw_labels import read_ids
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from storage.store import Store
from tests.data.stored import objects

IDS = np.array([[0, 1, 2, 3, 1, 0, 2, 3], [3, 3, 2, 2, 1, 1, 0, 0]], np.uint8)


def png(bits: int, kind: int, rows: bytes, more: bytes = b"") -> bytes:
    """A PNG of IDS' size with these packed rows; `more` are chunks before the pixels."""
    height, width = IDS.shape
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            more,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def packed_rows(ids: np.ndarray, bits: int) -> bytes:
    """Rows of a PNG: a filter byte, then ids of `bits` bits, high ones first."""
    unpacked = ((ids[..., None] >> np.arange(bits)[::-1]) & 1).reshape(len(ids), -1)
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_greys_of_few_bits_are_ids_not_shades(bits: int, tmp_path: Path) -> None:
    ids = IDS.astype(int) % 2**bits
    (tmp_path / "a.png").write_bytes(png(bits, 0, packed_rows(ids, bits)))
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_are_read_as_indices(bits: int, transparent: bool, tmp_path: Path) -> None:
    ids = IDS.astype(int) % 2**bits
    chunks = chunk(b"PLTE", bytes(range(250, 250 - 3 * 2 ** min(bits, 2), -1)))
    chunks += chunk(b"tRNS", b"\0\x80") if transparent else b""
    (tmp_path / "a.png").write_bytes(png(bits, 3, packed_rows(ids, bits), chunks))
    assert np.array_equal(read_ids(tmp_path / "a.png"), ids)


def test_ids_of_16_bits(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in IDS)
    (tmp_path / "a.png").write_bytes(png(16, 0, rows))
    assert np.array_equal(read_ids(tmp_path / "a.png"), IDS)


@pytest.mark.parametrize("most", [3, 11, 255, 1000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_s_greatest_value_does_not_scale_ids(most: int, plain: bool, tmp_path: Path) -> None:
    head = f"P{2 if plain else 5} 8 2 {most}\n".encode()
    raw = IDS.astype(">u2" if most > 255 else np.uint8).tobytes()
    body = " ".join(map(str, IDS.ravel())).encode() + b"\n" if plain else raw
    (tmp_path / "a.pgm").write_bytes(head + body)
    assert np.array_equal(read_ids(tmp_path / "a.pgm"), IDS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tga", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.tif", {"compression": "tiff_adobe_deflate"}),
    ],
    ids=str,
)
def test_lossless_formats_keep_every_id(name: str, options: dict[str, str], tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / name, **options)
    assert np.array_equal(read_ids(tmp_path / name), IDS)


def test_gifs_are_refused_because_their_writers_number_ids_anew(tmp_path: Path) -> None:
    image = Image.fromarray(IDS * 10)
    image.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as saved:
        assert set(np.unique(np.asarray(saved))) != set(np.unique(IDS * 10))
    with pytest.raises(DataError, match=r"a.gif: expected a PNG of ids, got GIF.*save labels as P"):
        read_ids(tmp_path / "a.gif")


LOSSY = [
    ("a.jpg", "JPEG", {}),
    ("a.png", "JPEG", {}),
    ("a.webp", "WEBP", {"quality": 90}),
    ("a.jp2", "JPEG2000", {}),
    ("a.avif", "AVIF", {}),
    ("a.tif", "TIFF", {"compression": "jpeg"}),
]


@pytest.mark.parametrize(("name", "kind", "options"), LOSSY, ids=str)
def test_lossy_formats_are_refused_before_anything_is_written(
    name: str, kind: str, options: dict[str, object], store: Store, tmp_path: Path
) -> None:
    raw_dir, noise = tmp_path / "raw", np.random.default_rng(0).integers(0, 12, (32, 48), np.uint8)
    for folder in ("images", "labels"):
        (raw_dir / folder).mkdir(parents=True)
    Image.new("RGB", (48, 32)).save(raw_dir / "images" / "a.png")
    label = Image.fromarray(noise)
    label = label.convert("RGB") if kind in ("WEBP", "AVIF") else label
    label.save(raw_dir / "labels" / name, kind, **options)
    with pytest.raises(
        BadFiles,
        match=rf"labels/{name}: expected a lossless label, got .*{kind}"
        if kind != "WEBP"
        else r"expected a lossless label, got lossy WebP",
    ):
        pack("folders", raw_dir, store, "train")
    with pytest.raises(DataError, match="expected a lossless label"):
        read_ids(raw_dir / "labels" / name)
    assert not objects(store)


def test_inverted_ids_are_refused(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.tif", tiffinfo={262: 0})
    Image.fromarray(IDS > 1).save(tmp_path / "a.pbm")
    for name in ("a.tif", "a.pbm"):
        with pytest.raises(DataError, match=f"{name}: expected ids as they are, got inverted"):
            read_ids(tmp_path / name)


def test_floats_are_no_ids(tmp_path: Path) -> None:
    Image.fromarray(IDS.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif: expected a single-channel PNG of ids, got mode F"):
        read_ids(tmp_path / "a.tif")


def test_several_labels_in_a_file_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(IDS), Image.fromarray(IDS)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"a.tif: expected one label in the file, got 2"):
        read_ids(tmp_path / "a.tif")


def test_a_label_s_own_orientation_turns_it(tmp_path: Path) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(file, "PNG", exif=exif)
    (tmp_path / "a.png").write_bytes(file.getvalue())
    assert np.array_equal(read_ids(tmp_path / "a.png"), np.rot90(IDS, -1))
