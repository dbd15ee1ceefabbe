"""Codecs: lossless where they promise it, the papers' pixels bit for bit, and broken bytes refused
by name.
"""

import io

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapt.data import codecs
from adapt.errors import DataError


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


def test_unknown_suffix_is_refused() -> None:
    with pytest.raises(DataError, match=r"unknown image suffix 'bmp' \(known: qoi, png, jpg\)"):
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
    with pytest.raises(DataError, match="k: the label has 20 pixels, expected 5x5 = 25"):
        codecs.decode_label(data, 5, 5, "k")


def test_a_lying_label_header_is_refused_before_memory_is_taken() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    with pytest.raises(DataError, match="the label has 50000000 pixels"):
        codecs.decode_label(bomb, 4, 4, "k")


def test_labels_of_unknown_length_are_refused() -> None:
    stream = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(16))
    with pytest.raises(DataError, match="the label has -1 pixels"):
        codecs.decode_label(stream, 4, 4, "k")


def test_damaged_labels_are_refused() -> None:
    data = bytearray(codecs.encode_label(noise(8, 8)[..., 0]))
    data[-8] ^= 1
    for damaged in (bytes(data), b"", b"junk"):
        with pytest.raises(DataError, match="k: the label cannot be decoded as zstandard"):
            codecs.decode_label(damaged, 8, 8, "k")
