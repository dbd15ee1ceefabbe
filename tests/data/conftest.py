"""Small raw data sets in every layout, made on the fly, and a local store to pack them into."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.street_datasets import VKITTI2_COLOURS
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
    "acdc": (
        "rgb_anon/fog/train/GOPR0475/GOPR0475_frame_{}_rgb_anon.png",
        "gt/fog/train/GOPR0475/GOPR0475_frame_{}_gt_labelIds.png",
    ),
    "dark_zurich": (
        "rgb_anon/train/night/GOPR0351/GOPR0351_frame_{}_rgb_anon.png",
        "gt/train/night/GOPR0351/GOPR0351_frame_{}_gt_labelIds.png",
    ),
    "bdd100k": (
        "bdd100k/images/10k/train/0000f77c-{}.jpg",
        "bdd100k/labels/sem_seg/masks/train/0000f77c-{}.png",
    ),
    "mapillary_vistas": ("training/images/ab_{}.jpg", "training/v1.2/labels/ab_{}.png"),
    "idd": (
        "leftImg8bit/train/201/{}_leftImg8bit.png",
        "gtFine/train/201/{}_gtFine_labelcsTrainIds.png",
    ),
    "kitti": ("training/image_2/{}.png", "training/semantic/{}.png"),
    "synscapes": ("img/rgb/{}.png", "img/class/{}.png"),
    "urbansyn": ("rgb/rgb_{}.png", "ss/ss_{}.png"),
    "vkitti2": (
        "Scene01/15-deg-left/frames/rgb/Camera_0/rgb_{}.jpg",
        "Scene01/15-deg-left/frames/classSegmentation/Camera_0/classgt_{}.png",
    ),
    "carla": ("rgb/{}.png", "semantic/{}.png"),
    "shift": (
        "discrete/images/train/front/img/0003-17fb/{}_img_front.jpg",
        "discrete/images/train/front/semseg/0003-17fb/{}_semseg_front.png",
    ),
    "loveda": ("Train/Urban/images_png/{}.png", "Train/Urban/masks_png/{}.png"),
    "folders": ("images/{}.png", "labels/{}.png"),
}
"""Where each layout keeps the image and the label of a sample."""

NUM_IDS = dict.fromkeys(("cityscapes", "acdc", "dark_zurich", "kitti", "synscapes"), 34)
NUM_IDS |= {"gta5": 35, "synthia": 23, "camvid": 12, "folders": 256, "bdd100k": 19, "idd": 19}
NUM_IDS |= {"urbansyn": 20, "mapillary_vistas": 66, "vkitti2": 15, "carla": 29, "shift": 23}
NUM_IDS |= {"loveda": 8}
"""Ids from 0 that labels of a dataset may have."""
IN_RED = ("carla", "shift")


def save_ids(path: Path, ids: np.ndarray, dataset: str) -> None:
    """Write a label as the data set's owner does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if dataset == "synthia":
        instances = np.full(ids.shape, 40_000)
        path.write_bytes(encode_deep_png(np.stack([ids, instances, ids * 0], axis=-1)))
        return
    image = Image.fromarray(ids.astype(np.uint8))
    if dataset in IN_RED:
        others = np.full((*ids.shape, 2), 77), np.full((*ids.shape, 1), 255)
        pixels = np.concatenate([ids[..., None], *others], axis=-1)
        image = Image.fromarray(pixels.astype(np.uint8))
    if dataset == "vkitti2":
        colours = np.array([colour for _, colour in VKITTI2_COLOURS], np.uint8)
        image = Image.fromarray(colours[ids])
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
            image = Image.fromarray(rng.integers(0, 256, (*size_hw, 3), np.uint8))
            image.save(image_path, "PNG")  # whatever the name: its pixels are compared
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
