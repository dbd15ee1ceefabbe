"""The papers' pixels and labels bit for bit: Pillow's resizing, the network's pixel format."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.codecs import Pixels, resize_image, resize_label
from adapt.models import ENCODERS, build_encoder
from adapt.models.encoders.encoder import CAFFE_PIXELS
from adapt.stream.feed import normalise

GOLDEN = {"gta": ("gta5", ("32x18", "80x45")), "cs": ("cityscapes", ("32x18",))}
CASES = [(tag, dataset, size) for tag, (dataset, sizes) in GOLDEN.items() for size in sizes]


def _normalised(pixels: Pixels) -> np.ndarray:
    """As a batch of one comes to the network."""
    images = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    return normalise(images, CAFFE_PIXELS)[0].numpy()


@pytest.mark.parametrize(("tag", "dataset", "size"), CASES)
def test_images_and_labels_are_the_programs(
    shared_dir: Path, tag: str, dataset: str, size: str
) -> None:
    width, height = map(int, size.split("x"))
    with np.load(shared_dir / "golden" / "preprocess.npz") as golden:
        found = _normalised(resize_image(golden[f"{tag}/rgb"], (height, width)))
        assert found.dtype == np.float32
        assert np.array_equal(found, golden[f"{tag}/image_{size}"])
        table = LABEL_SPACES["cityscapes19"].table(dataset)
        labels = table[resize_label(golden[f"{tag}/ids"], (height, width))]
        assert np.array_equal(labels, golden[f"{tag}/label_{size}"])


def test_labels_of_full_size_are_the_programs(shared_dir: Path) -> None:
    table = LABEL_SPACES["cityscapes19"].table("cityscapes")
    with np.load(shared_dir / "golden" / "preprocess.npz") as golden:
        assert np.array_equal(table[golden["cs/ids"]], golden["cs/label_full"])


def test_the_id_table_is_the_programs(shared_dir: Path) -> None:
    with np.load(shared_dir / "golden" / "preprocess.npz") as golden:
        pairs = dict(golden["gta/id_to_trainid"].tolist())
    for dataset in ("gta5", "cityscapes"):
        table = LABEL_SPACES["cityscapes19"].table(dataset)
        assert {id_: int(table[id_]) for id_ in range(256) if table[id_] != 255} == pairs


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith("caffe_")])
def test_every_encoder_of_the_papers_reads_these_pixels(name: str) -> None:
    with torch.device("meta"):
        assert build_encoder(name, 8).pixels == CAFFE_PIXELS
