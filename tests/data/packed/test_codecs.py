"""Codecs: lossless where they promise it, the papers' pixels bit for bit, and broken bytes refused
by name.
"""

import io
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapt.data.packed import codecs
from adapt.data.packed.image_headers import JPEG_PIXELS_PER_BYTE
from adapt.errors import DataError
from tests.data.packed import forged


def noise(height_px: int, width_px: int) -> codecs.Pixels:
    return np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3), np.uint8)


def png(images: codecs.Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(images).save(buffer, "PNG")
    return buffer.getvalue()


def test_qoi_and_png_are_lossless() -> None:
    images = noise(7, 11)
    assert np.array_equal(
        codecs.decode_image(codecs.encode_image(images, "qoi"), "qoi", "k"), images
    )
    assert np.array_equal(codecs.decode_image(png(images), "png", "k"), images)


def test_jpeg_keeps_full_colour_resolution() -> None:
    images = np.zeros((16, 16, 3), np.uint8)
    images[:, ::2] = (255, 0, 0)
    decoded = codecs.decode_image(codecs.encode_image(images, "jpg"), "jpg", "k")
    assert np.abs(decoded.astype(int) - images).max() < 40


def test_decoded_images_are_writable() -> None:
    images = noise(4, 4)
    for suffix, data in (("png", png(images)), ("qoi", codecs.encode_image(images, "qoi"))):
        assert codecs.decode_image(data, suffix, "k").flags.writeable
    assert codecs.resize_image(images, (2, 2)).flags.writeable


@pytest.mark.parametrize("suffix", ["qoi", "png", "jpg"])
@pytest.mark.parametrize("keep", [0, 3, 20, 60])
def test_truncated_images_are_refused_by_name(suffix: str, keep: int) -> None:
    images = noise(16, 16)
    data = png(images) if suffix == "png" else codecs.encode_image(images, suffix)
    with pytest.raises(DataError, match=f"aachen_7: the image cannot be decoded as {suffix}"):
        codecs.decode_image(data[:keep], suffix, "aachen_7")


@pytest.mark.parametrize("suffix", ["qoi", "png", "jpg"])
def test_images_are_decoded_from_any_buffer(suffix: str) -> None:
    images = noise(9, 5)
    data = png(images) if suffix == "png" else codecs.encode_image(images, suffix)
    buffer = memoryview(b"x" + data)[1:]
    decoded = codecs.decode_image(buffer, suffix, "k", size_hw=(9, 5))
    assert np.array_equal(decoded, codecs.decode_image(data, suffix, "k"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_pngs_of_every_mode_become_rgb(mode: str) -> None:
    picture, buffer = Image.fromarray(noise(9, 5)).convert(mode), io.BytesIO()
    picture.save(buffer, "PNG")
    decoded = codecs.decode_image(buffer.getvalue(), "png", "k", (9, 5))
    assert np.array_equal(decoded, np.array(picture.convert("RGB")))


@pytest.mark.parametrize("suffix", ["qoi", "png", "jpg"])
def test_another_size_than_expected_is_refused_unread(suffix: str) -> None:
    images = noise(16, 8)
    data = png(images) if suffix == "png" else codecs.encode_image(images, suffix)
    broken = data[:-30] if suffix != "jpg" else data[:640]
    message = r"k: expected an image of \[8, 16\] pixels .*, got \[16, 8\]\. Fix: copy the objects"
    with pytest.raises(DataError, match=message):
        codecs.decode_image(broken, suffix, "k", size_hw=(8, 16))


LONG = codecs.MAX_SIDE_PX + 1
MANY = codecs.MAX_PIXELS // codecs.MAX_SIDE_PX + 1


@pytest.mark.parametrize("size_hw", [(1, LONG), (LONG, 1), (MANY, codecs.MAX_SIDE_PX)])
@pytest.mark.parametrize("expected", ["the same", "none"])
def test_gigantic_images_are_refused(size_hw: tuple[int, int], expected: str) -> None:
    images = {"png": forged.png(size_hw, 9), "qoi": forged.qoi_runs(size_hw)}
    for suffix, data in images.items():
        with pytest.raises(DataError, match=r"k: expected an image with sides of at most 32768"):
            codecs.decode_image(data, suffix, "k", size_hw if expected == "the same" else None)


def test_the_largest_sides_are_decoded() -> None:
    size_hw = (1, codecs.MAX_SIDE_PX)
    assert codecs.decode_image(forged.qoi_runs(size_hw), "qoi", "k", size_hw).shape == (*size_hw, 3)


def test_headers_that_promise_more_than_their_bytes_hold_are_refused() -> None:
    shortest = forged.qoi_runs((62, 100))
    assert codecs.decode_image(shortest, "qoi", "k").shape == (62, 100, 3)
    for suffix, data in (
        ("qoi", forged.qoi((62, 101), shortest[14:-8])),
        ("jpg", forged.jpeg((8000, 8000))),
    ):
        with pytest.raises(
            DataError, match=rf"as {suffix}: its \d+ bytes cannot hold \d+x\d+ pixels"
        ):
            codecs.decode_image(data, suffix, "k")


def test_the_flattest_jpegs_hold_what_they_promise() -> None:
    buffer = io.BytesIO()
    flat = Image.fromarray(np.zeros((2048, 2048), np.uint8))
    flat.save(buffer, "JPEG", quality=1, progressive=True, optimize=True)
    assert codecs.decode_image(buffer.getvalue(), "jpg", "k").shape == (2048, 2048, 3)
    assert len(buffer.getvalue()) < 3 * 2048**2 / JPEG_PIXELS_PER_BYTE


@pytest.mark.parametrize("num_scans", [400, 600])
def test_jpegs_of_endless_scans_are_refused(num_scans: int) -> None:
    data = forged.endless_jpeg((64, 64), num_scans)
    message = "Inconsistent progression" if num_scans == 400 else r"at most 500 scans, got 606"
    with pytest.raises(DataError, match=message):
        codecs.decode_image(data, "jpg", "k")


def test_scans_are_counted_only_where_decoders_read_them_all() -> None:
    thumbnails = b"\xff\xe1" + struct.pack(">H", 2002) + b"\xff\xda" * 1000
    data = codecs.encode_image(noise(8, 8), "jpg")
    for filling in (b"", b"\xff\xff"):
        filled = data[:2] + filling + thumbnails + data[2:]
        assert codecs.decode_image(filled, "jpg", "k").shape == (8, 8, 3)


def test_what_hides_between_the_segments_of_a_jpeg_is_refused() -> None:
    data = codecs.encode_image(noise(8, 8), "jpg")
    for hidden in (b"\xff\x01", b"\xff\xd0"):
        with pytest.raises(DataError, match=r"k: .* expected a segment at byte 2, got 0xff"):
            codecs.decode_image(data[:2] + hidden + data[2:], "jpg", "k")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "EPS"])
def test_other_formats_are_no_png(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(buffer, kind)
    with pytest.raises(DataError, match="k: the image cannot be decoded as png"):
        codecs.decode_image(buffer.getvalue(), "png", "k")


def test_a_profile_cut_short_behind_the_pixels_is_refused() -> None:
    """Found by fuzzing: Pillow looks beyond its end."""
    data = png(noise(8, 8))
    end = data.index(b"IEND") - 4
    broken = data[:end] + forged.png_chunk(b"iCCP", b"a\0") + data[end:]
    with pytest.raises(DataError, match="k: the image cannot be decoded as png"):
        codecs.decode_image(broken, "png", "k")


def test_unknown_suffix_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"expected an image suffix of qoi, png, jpg, got 'bmp'\. Fix: pack"
    ):
        codecs.decode_image(b"", "bmp", "k")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["qoi", "png", "jpg"]), st.binary(max_size=300), st.integers(0, 200))
def test_no_bytes_raise_anything_else(suffix: str, noise_bytes: bytes, place: int) -> None:
    images = noise(8, 8)
    good = png(images) if suffix == "png" else codecs.encode_image(images, suffix)
    for data in (noise_bytes, good[:place] + noise_bytes + good[place + len(noise_bytes) :]):
        try:
            codecs.decode_image(data, suffix, "k")
        except DataError as error:
            assert str(error).startswith("k: ")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_labels_come_back(height_px: int, width_px: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 256, (height_px, width_px), np.uint8)
    decoded = codecs.decode_label(codecs.encode_label(labels), height_px, width_px, "k")
    assert np.array_equal(decoded, labels)


def test_labels_of_another_size_are_refused() -> None:
    data = codecs.encode_label(np.zeros((4, 5), np.uint8))
    with pytest.raises(DataError, match="k: expected a label of 5x5 = 25 pixels, got 20"):
        codecs.decode_label(data, 5, 5, "k")


def test_a_lying_label_header_is_refused_before_memory_is_taken() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    with pytest.raises(DataError, match="4x4 = 16 pixels, got 50000000"):
        codecs.decode_label(bomb, 4, 4, "k")


def test_labels_of_unknown_length_are_refused() -> None:
    stream = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(16))
    with pytest.raises(DataError, match="4x4 = 16 pixels, got -1"):
        codecs.decode_label(stream, 4, 4, "k")


def test_labels_are_one_frame_of_a_small_window() -> None:
    data = codecs.encode_label(np.zeros((4, 5), np.uint8))
    assert codecs.decode_label(memoryview(b"x" + data)[1:], 4, 5, "k").shape == (4, 5)
    for bad, message in (
        (data + data, "unused data"),
        (forged.zstd_window(20, 27), "too much memory"),
        (forged.zstd(400, 20), "cannot be decoded as zstandard"),
    ):
        with pytest.raises(DataError, match=f"k: the label .*{message}"):
            codecs.decode_label(bad, 4, 5, "k")


def test_damaged_labels_are_refused() -> None:
    data = bytearray(codecs.encode_label(noise(8, 8)[..., 0]))
    data[-8] ^= 1
    for damaged in (bytes(data), b"", b"junk"):
        with pytest.raises(DataError, match="k: the label cannot be decoded as zstandard"):
            codecs.decode_label(damaged, 8, 8, "k")
