"""Fixtures of tests of predictions: a small network, and how sets are predicted with it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES
from adapt.models.file_header import FileHeader
from adapt.places import Place
from adapt.use.model import LoadedModel
from adapt.use.predict_set import PredictOptions, predict_set
from adapt.use.predictions import Summary
from storage.stores import Stores
from tests.networks import varied_network

SPACE = LABEL_SPACES["cityscapes19"]


def network(stores: Stores | None = None, seed: int = 5) -> LoadedModel:
    """A network on the CPU whose predictions vary from pixel to pixel; images are resized."""
    segmenter = varied_network(19, seed)
    header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, (16, 24))
    return LoadedModel(segmenter, header, stores or Stores(), torch.device("cpu"))


def predicted(
    inputs: Sequence[object],
    out: object,
    *,
    model: LoadedModel | None = None,
    stores: Stores | None = None,
    place: Place | None = None,
    **options: Any,
) -> Summary:
    """`predict_set` on this machine."""
    place = place or Place("local", {}, Path("/nonexistent/scratch"))
    stores = stores or Stores()
    more = {name: options.pop(name) for name in ("stop", "on_progress") if name in options}
    texts = [str(one) for one in inputs]
    model = model or network(stores)
    settings = PredictOptions(**options)
    return predict_set(model, texts, str(out), stores, place, settings, **more)


def write_images(folder: Path, names: Sequence[str], seed: int = 0) -> Path:
    """Images of noise, 20 x 30 pixels, of different sizes by turns."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + number % 3, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def shares_in(out: Path) -> list[dict[str, str]]:
    """The lines of `shares.csv`."""
    with (out / "shares.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_in(out: Path) -> set[str]:
    """Outputs, without the record of what is done."""
    paths = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {path for path in paths if not path.startswith(".segadapt/")}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight images in two folders."""
    names = [f"{'ba'[number % 2]}/{number}.png" for number in range(8)]
    return write_images(tmp_path / "photos", names)
