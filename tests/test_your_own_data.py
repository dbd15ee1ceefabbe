"""docs/your_own_data.md runs: its files, its spec and its commands, word for word but for sizes."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from tests.commands import ROOT, Ended, call

PAGE = (ROOT / "docs" / "your_own_data.md").read_text()
TINY = {
    "resnet50": "test_resnet",
    "360 640": "32 48",
    "[360, 640]": "[32, 48]",
    "batch_size: 4": "batch_size: 2",
    "{steps: 20000}": "{steps: 4}",
    "every_steps: 1000": "every_steps: 2",
}
"""Sizes of the page -> sizes that train within seconds."""


def tiny(text: str) -> str:
    """The page's text in tiny sizes."""
    for large, small in TINY.items():
        text = text.replace(large, small)
    return text


def blocks(kind: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    """The page's commands in order, tiny."""
    lines = [line for block in blocks("sh") for line in tiny(block).splitlines()]
    return [shlex.split(line.removeprefix("segadapt ")) for line in lines]


COLOURS = np.array([(128, 64, 128), (70, 70, 70), (0, 0, 142), (0, 0, 0)], np.uint8)
"""The spec's classes, and the colour to ignore."""


def write_raw(folder: Path) -> None:
    """The folders of section 1, with bands of the classes."""
    rng = np.random.default_rng(0)
    bands = np.repeat([0, 1, 2, 3], 8)[:, None] * np.ones(48, int)
    for dataset, suffix, labels in (("town", "png", 6), ("camera", "jpg", 2), ("new", "jpg", 0)):
        for kind in ("images", "labels"):
            (folder / "RAW" / dataset / kind).mkdir(parents=True)
        for number in range(6):
            ids = np.roll(bands, number, axis=0)
            image = COLOURS[ids] // 2 + rng.integers(0, 60, (32, 48, 3)).astype(np.uint8)
            images = folder / "RAW" / dataset / "images"
            Image.fromarray(image).save(images / f"{number:03d}.{suffix}")
            if number < labels:
                label = folder / "RAW" / dataset / "labels" / f"{number:03d}.png"
                Image.fromarray(COLOURS[ids]).save(label)
    (folder / "RAW" / "camera" / "val.txt").write_text("000.jpg\n001.jpg\n")
    (folder / "RAW" / "camera" / "train.txt").write_text("002\n003\n004\n005\n")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "RAW" / "resnet50.pth")


def test_the_spec_of_the_page_is_complete_and_every_size_is_made_tiny() -> None:
    assert all(large in PAGE for large in TINY)
    (spec,) = blocks("yaml")
    assert {"classes", "source", "target", "validation"} <= yaml.safe_load(spec).keys()
    names = [argv[0] for argv in commands()]
    assert names == [
        *("init", "pack", "pack", "pack", "inspect", "import-checkpoint", "check", "run"),
        *("download-best", "evaluate", "pack", "predict"),
    ]


@pytest.mark.slow
def test_the_page_runs_from_folders_to_predictions(tmp_path: Path) -> None:
    write_raw(tmp_path)
    (tmp_path / "RAW" / "test_resnet.pth").write_bytes(
        (tmp_path / "RAW" / "resnet50.pth").read_bytes()
    )
    (spec,) = blocks("yaml")
    (tmp_path / "my_streets.yaml").write_text(tiny(spec))
    ended: dict[str, Ended] = {}
    for argv in commands():
        ended[argv[0]] = one = call(*argv, folder=tmp_path)
        assert one.code == 0, (argv, one.err, one.out)
    assert_packed(tmp_path)
    with Image.open(tmp_path / "town.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20)}
        assert {tuple(map(int, one)) for one in COLOURS} <= colours
    proposed = yaml.safe_load((tmp_path / "proposed" / "town_to_camera.yaml").read_text())
    assert proposed["classes"] == yaml.safe_load(spec)["classes"]
    assert proposed["validation"]["split"] == "val"
    assert "road" in ended["evaluate"].out
    assert "6 predictions in seen" in ended["predict"].err
    for number in range(6):
        with Image.open(tmp_path / "seen" / f"{number:03d}.png") as image:
            assert image.size == (48, 32) and set(np.unique(np.asarray(image))) <= {0, 1, 2}
    assert len(list((tmp_path / "seen" / "colours").glob("*.png"))) == 6


def assert_packed(folder: Path) -> None:
    """Colours have become the spec's ids, and the lists have picked their images."""
    expected = {"town": ("train", 6), "camera": ("val", 2)}
    for dataset, (split, count) in expected.items():
        manifest = json.loads((folder / "packed" / dataset / split / "manifest.json").read_text())
        pixels = 32 * 48 // 4 * count
        assert manifest["id_pixels"] == {"0": pixels, "1": pixels, "2": pixels, "255": pixels}
    camera = json.loads((folder / "packed" / "camera" / "train" / "manifest.json").read_text())
    assert (camera["num_samples"], camera["labelled"]) == (4, False)


@pytest.mark.parametrize("word", ["--skip-file", "--pairs-only", "--ignore-colour", "labelmap.txt"])
def test_the_page_names_the_ways_out(word: str) -> None:
    assert word in PAGE
