"""Small raw data sets in every layout, made on the fly, and a local store to pack them into."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.store import Store
from storage.stores import open_store

SIZE_HW = (18, 32)

RAW_FILES = {
    "gta5": ("images/{}.png", "labels/{}.png"),
    "cityscapes": (
        "leftImg8bit/train/ulm/ulm_{}_leftImg8bit.png",
        "gtFine/train/ulm/ulm_{}_gtFine_labelIds.png",
    ),
    "synthia": ("RGB/{}.png", "GT/LABELS/{}.png"),
    "camvid": ("train/{}.png", "trainannot/{}.png"),
    "folders": ("images/{}.png", "labels/{}.png"),
}
"""Where each layout keeps the image and the label of a sample."""

NUM_IDS = {"gta5": 35, "cityscapes": 34, "synthia": 23, "camvid": 12, "folders": 256}


def save_ids(path: Path, ids: np.ndarray, dataset: str) -> None:
    """Write a label as the data set's owner does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if dataset == "synthia":
        instances = np.full(ids.shape, 40_000)
        path.write_bytes(encode_deep_png(np.stack([ids, instances, ids * 0], axis=-1)))
        return
    image = Image.fromarray(ids.astype(np.uint8))
    if dataset == "gta5":
        image.putpalette([(7 * value) % 256 for value in range(768)])
    image.save(path)


def encode_deep_png(channels: np.ndarray) -> bytes:
    """(H, W, 3) -> a 16-bit RGB PNG, byte by byte, as no library at hand writes one."""
    height_px, width_px, _ = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width_px, height_px, 16, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def make_raw(tmp_path: Path) -> Callable[..., Path]:
    """make_raw(dataset, count) -> a raw folder of `count` labelled samples of 18x32 pixels, seeded
    noise.
    """

    def make(dataset: str, count: int = 3, size_hw: tuple[int, int] = SIZE_HW) -> Path:
        raw_dir = tmp_path / f"raw-{dataset}"
        for number in range(count):
            rng = np.random.default_rng(number)
            image_path, label_path = (
                raw_dir / pattern.format(f"{number:05d}") for pattern in RAW_FILES[dataset]
            )
            image_path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size_hw, 3), np.uint8)).save(image_path)
            save_ids(label_path, rng.integers(0, NUM_IDS[dataset], size_hw), dataset)
        return raw_dir

    return make


@pytest.fixture
def deep_png() -> Callable[[np.ndarray], bytes]:
    """deep_png(channels (H, W, 3)) -> the bytes of a 16-bit PNG."""
    return encode_deep_png


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return open_store(str(tmp_path / "packed"))
