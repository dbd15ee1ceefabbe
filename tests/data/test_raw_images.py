"""Images that are not plain 8-bit RGB: the right pixels, or a refusal that names the file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.packed.codecs import MAX_PIXELS
from adapt.data.packed.encodings import ENCODINGS
from adapt.data.packed.inspect import read_sample
from adapt.data.packed.split_files import read_manifest
from adapt.data.problems import BadFiles, Notes
from adapt.data.raw_images import ALPHA, DEEP, UPRIGHT, read_header, read_image
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from storage.store import Store
from storage.stores import open_store
from tests.data.conftest import encode_deep_png

GREYS = (np.arange(24 * 16).reshape(24, 16) % 256).astype(np.uint8)
COLOURS = np.stack([GREYS, GREYS[::-1], GREYS[:, ::-1]], axis=-1)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An empty local store apart from the raw images, which lie in `tmp_path` itself."""
    return open_store(str(tmp_path_factory.mktemp("packed")))


def packed_image(store: Store, raw_dir: Path, encoding: str) -> tuple[np.ndarray, Notes]:
    """The only image of a folder, packed and read again; what packing stated."""
    notes = Notes()
    pack("folders", raw_dir, store, "train", encoding=encoding, on_notes=notes.update)
    return read_sample(store, *read_manifest(store, "train"), 0)[0], notes


def saved(folder: Path, name: str, image: Image.Image | bytes, **more: object) -> Path:
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path, **more)
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_16_bit_greys_keep_their_high_byte(encoding: str, store: Store, tmp_path: Path) -> None:
    saved(tmp_path, "a.png", Image.fromarray(GREYS.astype(np.uint16) * 257))
    image, notes = packed_image(store, tmp_path, encoding)
    tolerance = 8 if encoding == "small" else 0
    assert np.abs(image.astype(int) - GREYS[..., None]).max() <= tolerance
    assert notes.converted == {DEEP: 1}


@pytest.mark.parametrize("name", ["a.tif", "a.jp2", "a.pgm", "big-endian.tif", "a.png"])
def test_16_bits_in_every_format(name: str, tmp_path: Path) -> None:
    deep = GREYS.astype(np.uint16) * 257
    image = Image.fromarray(deep)
    if name == "big-endian.tif":
        image = Image.frombytes("I;16B", deep.shape[::-1], deep.astype(">u2").tobytes())
    path = saved(tmp_path, name, image.convert("I") if name.endswith("pgm") else image)
    assert read_header(path).conversions() == [DEEP]
    assert np.array_equal(read_image(path), np.repeat(GREYS[..., None], 3, axis=-1))


def test_16_bit_colours_keep_their_high_byte(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", encode_deep_png(COLOURS.astype(int) * 256 + 77))
    assert read_header(path).conversions() == [DEEP]
    assert np.array_equal(read_image(path), COLOURS)


def test_16_bits_are_seen_beside_exif_behind_the_pixels(tmp_path: Path) -> None:
    data, exif = encode_deep_png(COLOURS.astype(int) * 256), Image.Exif()
    exif[0x0112] = 3
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path = saved(tmp_path, "a.png", data[:-12] + late + data[-12:])
    assert read_header(path).conversions() == [DEEP, UPRIGHT]
    assert np.array_equal(read_image(path), COLOURS[::-1, ::-1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("transparency", [b"\x80\xff", 0])
def test_a_transparent_palette_is_stated_as_alpha_is(transparency: object, tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(4)
    image.save(tmp_path / "a.png", transparency=transparency)
    assert read_header(tmp_path / "a.png").conversions() == [ALPHA]
    assert np.array_equal(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("top", [200, 4095])
@pytest.mark.parametrize("colours", [False, True])
def test_fewer_bits_in_16_are_refused(top: int, colours: bool, tmp_path: Path) -> None:
    values = GREYS.astype(np.uint16) * top // 255
    deep = encode_deep_png(np.stack([values] * 3, axis=-1)) if colours else Image.fromarray(values)
    path = saved(tmp_path, "a.png", deep)
    with pytest.raises(DataError, match=r"a.png: expected values up to 65535 .*nearly black"):
        read_image(path)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (Image.fromarray(GREYS.astype(np.float32)), "a.tif"),
        (Image.fromarray(GREYS.astype(np.int32) * 70_000), "a.tif"),
        (Image.fromarray(GREYS.astype(np.float32)), "a.pfm"),
        (Image.new("LAB", (16, 24)), "a.tif"),
    ],
)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_values_without_a_range_are_refused(
    image: Image.Image, name: str, encoding: str, store: Store, tmp_path: Path
) -> None:
    saved(tmp_path, name, image)
    with pytest.raises(BadFiles, match=rf"{name}: expected (an image of 8 or 16 bits|a PNG or JP)"):
        packed_image(store, tmp_path, encoding)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif", "late.png"])
def test_images_are_upright(name: str, orientation: int, store: Store, tmp_path: Path) -> None:
    blocks = np.kron([[30, 90, 150], [200, 250, 60]], np.ones((16, 16))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, name, Image.fromarray(blocks).convert("RGB"), exif=exif)
    if name == "late.png":
        path.write_bytes(exif_moved_behind_the_pixels(path.read_bytes()))
    turned = upright(blocks, orientation)
    image, notes = packed_image(store, tmp_path, "exact")
    assert read_header(path).size_hw == turned.shape and read_header(path).stored_hw == (32, 48)
    assert np.abs(image[..., 0].astype(int) - turned)[8::16, 8::16].max() <= 6
    assert notes.converted == ({UPRIGHT: 1} if orientation > 1 else {})


def upright(rows: np.ndarray, orientation: int) -> np.ndarray:
    """The table of EXIF 2.32: where row 0 and column 0 of the stored rows are seen."""
    if orientation >= 5:
        rows = rows.T
    flips = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    vertical, horizontal = flips.get(orientation, (0, 0))
    return rows[:: -1 if vertical else 1, :: -1 if horizontal else 1]


def exif_moved_behind_the_pixels(data: bytes) -> bytes:
    """A PNG whose eXIf chunk stands behind its IDAT, as some cameras' programs write it."""
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    return data[:start] + data[end:last] + data[start:end] + data[last:]


def test_an_original_that_exif_turns_is_refused(store: Store, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path, "a.jpg", Image.fromarray(COLOURS), exif=exif)
    with pytest.raises(BadFiles, match=r"a.jpg: expected an upright image with --original"):
        packed_image(store, tmp_path, "original")


@pytest.mark.parametrize("turned", [True, False])
def test_a_label_must_lie_as_the_upright_image(turned: bool, store: Store, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path, "a.jpg", Image.fromarray(COLOURS), exif=exif)
    ids = np.zeros(GREYS.T.shape if turned else GREYS.shape, np.uint8)
    (tmp_path / "labels").mkdir()
    Image.fromarray(ids).save(tmp_path / "labels" / "a.png")
    if turned:
        assert packed_image(store, tmp_path, "exact")[0].shape == (16, 24, 3)
        return
    message = r"labels/a.png: the label is 24x16, its image 16x24 pixels .*EXIF orientation turns"
    with pytest.raises(BadFiles, match=message):
        packed_image(store, tmp_path, "exact")


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
@pytest.mark.parametrize("own", [True, False])
def test_a_label_of_an_image_that_exif_turns_in_its_place_says_how_it_lies(
    orientation: int, own: bool, store: Store, tmp_path: Path
) -> None:
    """Nothing else shows whether it is of the rows or of the picture: the sizes are the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved(tmp_path, "a.jpg", Image.fromarray(COLOURS), exif=exif)
    (tmp_path / "labels").mkdir()
    label = Image.fromarray(np.zeros(GREYS.shape, np.uint8))
    label.save(tmp_path / "labels" / "a.png", **({"exif": exif} if own else {}))
    if own or orientation == 1:
        assert packed_image(store, tmp_path, "exact")[0].shape == COLOURS.shape
        return
    message = rf"labels/a.png: its image has the EXIF orientation {orientation}, which keeps the s"
    with pytest.raises(
        BadFiles, match=rf"(?s){message}.*Fix: .*mogrify -auto-orient FILE.*exiftool"
    ):
        packed_image(store, tmp_path, "exact")


@pytest.mark.parametrize(
    ("mode", "statement"),
    [("LA", "alpha"), ("RGBA", "alpha"), ("CMYK", "CMYK"), ("P", ""), ("1", "")],
)
def test_other_modes_are_converted_with_a_statement(
    mode: str, statement: str, store: Store, tmp_path: Path
) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    saved(tmp_path, "a.tif" if mode == "CMYK" else "a.png", image)
    found, notes = packed_image(store, tmp_path, "exact")
    assert np.array_equal(found, np.asarray(image.convert("RGB")))
    assert [statement in reason for reason in notes.converted] == [True] * bool(statement)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp"])
def test_several_images_in_a_file_are_refused(name: str, store: Store, tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1])]
    saved(tmp_path, name, frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(BadFiles, match=rf"{name}: expected one image in the file, got 2"):
        packed_image(store, tmp_path, "exact")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"junk", "no image of a format that can be read"),
    ],
)
def test_files_that_are_no_images_say_what_they_are(
    content: bytes, fault: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, "a.png", content)
    with pytest.raises(DataError, match=f"a.png: corrupt image: {fault}"):
        read_image(path)


def test_pillow_s_other_errors_name_the_file(store: Store, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.avif", Image.fromarray(COLOURS))
    path.write_bytes(path.read_bytes().replace(b"pitm", b"xitm"))
    with pytest.raises(RuntimeError), Image.open(path):
        pass
    with pytest.raises(BadFiles, match=r"a.avif: corrupt image: Failed to decode image"):
        packed_image(store, tmp_path, "exact")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_download_that_left_zeros_is_refused(encoding: str, store: Store, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (48, 64, 3), np.uint8)
    path = saved(tmp_path, "a.png", Image.fromarray(noise))
    size_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes()[:900].ljust(size_bytes, b"\0"))
    with Image.open(path) as image:
        image.load()  # as if nothing were wrong
    with pytest.raises(BadFiles, match=r"a.png: corrupt image: "):
        packed_image(store, tmp_path, encoding)


@pytest.mark.parametrize("encoding", ["exact", "original"])
def test_a_jpeg_under_the_name_of_a_png_is_read(
    encoding: str, store: Store, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, "JPEG", quality=95)
    saved(tmp_path, "a.png", file.getvalue())
    image, _ = packed_image(store, tmp_path, encoding)
    assert image.shape == COLOURS.shape


def bilevel_png(width_px: int, height_px: int) -> bytes:
    """A PNG that states so many pixels, black as far as its bytes go."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 + width_px // 8) * height_px, 1)
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_images_of_200_megapixels_are_read(tmp_path: Path) -> None:
    width_px, height_px = 20_000, 10_000
    assert 179e6 < width_px * height_px < MAX_PIXELS
    data = bilevel_png(width_px, height_px)
    path = saved(tmp_path, "a.png", data)
    assert read_header(path).size_hw == (height_px, width_px) and read_header(path).fault() is None
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getpixel((width_px - 1, height_px - 1))


@pytest.mark.parametrize("size", [(20_000, 14_000), (32_000, 32_000)])
def test_larger_ones_are_too_large_not_corrupt(
    size: tuple[int, int], store: Store, tmp_path: Path
) -> None:
    saved(tmp_path, "a.png", bilevel_png(*size)[:2000])
    with pytest.raises(BadFiles, match="expected sides of at most 32768 and 268435456 pixels") as e:
        packed_image(store, tmp_path, "exact")
    assert "corrupt" not in str(e.value)
