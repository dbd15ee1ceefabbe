"""The command `import-model`: from weights of others to a file, a version, and a prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from adapt.models import build_segmenter
from tests.cli.conftest import refused
from tests.commands import Ended, call
from tests.networks import tiny_model
from tests.platforms.test_docker_image_file import layer, saved
from tests.tracking.recorded import new_database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """theirs.pth, and network.yaml that describes it."""
    segmenter = build_segmenter(tiny_model("deeplab_v2"), 19)
    torch.save({"model": segmenter.state_dict()}, tmp_path / "theirs.pth")
    values = {"model": tiny_model("deeplab_v2"), "classes": "cityscapes19"}
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_a_file_becomes_a_registered_network_that_predicts(folder: Path) -> None:
    server = new_database(folder / "mlflow")
    asked = ("theirs.pth", "--out", "ours.safetensors", "--spec", "network.yaml")
    more = ("--size", "32x48", "--register", "town", "--tracking-uri", server, "--json")
    ended = call("import-model", *asked, *more, folder=folder)
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer["registered"] == "models:/town/1" and answer["uri"] == "ours.safetensors"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "street.png")
    predicting = ("street.png", "--out", "seen", "--tracking-uri", server)
    ended = call("predict", "models:/town@best", *predicting, folder=folder)
    assert ended.code == 0, ended.err
    assert (folder / "seen" / "overlay" / "street.png").is_file()
    ended = call("import-model", *asked, folder=folder)
    assert ended.out == "ours.safetensors\n"
    assert "deeplab_v2 on test_resnet, 19 classes" in ended.err


def test_an_image_gives_its_file(folder: Path) -> None:
    content = (folder / "theirs.pth").read_bytes()
    saved(folder / "town.tar", layer({"opt/ml/model/theirs.pth": content}))
    asked = ("--image", "town.tar", "--out", "ours.safetensors", "--spec", "network.yaml")
    ended = call("import-model", "/opt/ml/model/theirs.pth", *asked, folder=folder)
    assert ended.code == 0, ended.err
    about = call("import-model", "ours.safetensors", "--out", "b.safetensors", folder=folder)
    assert about.code == 0, about.err
    assert b"town.tar: /opt/ml/model/theirs.pth" in (folder / "ours.safetensors").read_bytes()
    wrong = call("import-model", "/opt/ml/theirs.pth", *asked, folder=folder)
    refused(wrong, 2, "expected a file at /opt/ml/theirs.pth", "/opt/ml/model/theirs.pth")


def test_what_is_missing_is_refused_before_any_work(folder: Path) -> None:
    def ended(*more: object) -> Ended:
        return call("import-model", "theirs.pth", "--out", "a.safetensors", *more, folder=folder)

    refused(ended(), 2, "expected a header that states the network", "add --spec FILE")
    refused(ended("--register", "town"), 2, "--register: expected an MLflow server, got none")
    refused(ended("--register", "a/b"), 2, "--register", "without '/' and ':'")
    refused(ended("--set", "model.aux=false"), 2, "--set: expected --spec, whose keys it changes")
    refused(ended("--size", "4"), 2, "--size: expected height x width")
    assert not (folder / "a.safetensors").exists()
