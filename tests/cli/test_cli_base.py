"""Commands on a checkpoint without its base: the option --base."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.base_weights import base_of, without_base
from adapt.models.file_header import FileHeader, write_weights
from tests.cli.conftest import refused
from tests.commands import call
from tests.use.conftest import write_images

MODEL = {"architecture": "deeplab_v2", "encoder": "test_vit", "output_stride": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `small.safetensors`, trained on `gone.safetensors`, which is `base.safetensors`
    now, and an image."""
    torch.manual_seed(1)
    base = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(base, tmp_path / "base.safetensors")
    values = {**MODEL, "weights_uri": "gone.safetensors", "adapters": {"kind": "soma", "rank": 2}}
    segmenter = build_segmenter(values, 19, base, start_adapters=False)
    left_out = base_of(segmenter.encoder, "gone.safetensors")
    segmenter.leave_out(left_out)
    segmenter.start_adapters()
    header = FileHeader(
        segmenter.config, 19, segmenter.pixels, LABEL_SPACES["cityscapes19"], (32, 48)
    )
    kept = without_base(segmenter.state_dict(), segmenter)
    entries = header.entries() | left_out.entries()
    write_weights(kept, entries, tmp_path / "small.safetensors")
    write_images(tmp_path / "photos", ["a.png"])
    return tmp_path


def test_a_base_that_moved_is_named(folder: Path) -> None:
    arguments = ("predict", "small.safetensors", "photos", "--write", "ids", "--out")
    ended = call(*arguments, "none", folder=folder)
    refused(ended, 2, "gone.safetensors", "Fix: name the file with the weights", "--base FILE")
    ended = call(*arguments, "seen", "--base", "base.safetensors", folder=folder)
    assert ended.code == 0, ended.err
    made = ("import-model", "small.safetensors", "--base", "base.safetensors", "--out")
    for name, more in (("whole", ()), ("adapted", ("--keep-adapters",))):
        ended = call(*made, f"{name}.safetensors", *more, folder=folder)
        assert ended.code == 0, ended.err
        adapted = any(key.endswith(".down") for key in load_file(folder / f"{name}.safetensors"))
        assert adapted is bool(more)
    ended = call("predict", "whole.safetensors", *arguments[2:], "again", folder=folder)
    assert ended.code == 0, ended.err
    one, other = (Image.open(folder / out / "ids" / "a.png") for out in ("seen", "again"))
    assert one.tobytes() == other.tobytes()
    ended = call(
        *("predict", "whole.safetensors", "photos", "--out", "x", "--base", "base.safetensors"),
        folder=folder,
    )
    refused(ended, 2, "base: expected weights that leave out their base, got those of a whole")


def test_jobs_of_a_platform_read_a_base_in_a_store(folder: Path) -> None:
    ended = call(
        *("predict", "small.safetensors", "photos", "--out", "x", "--to", "docker.yaml"),
        *("--base", "base.safetensors"),
        folder=folder,
    )
    refused(ended, 2, "--base: expected the URI of a store, which the jobs read, got 'base.safet")
