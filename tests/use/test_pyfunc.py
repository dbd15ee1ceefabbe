"""`mlflow.pyfunc` loads what a job registered: the weights come from the store, checked."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from safetensors import safe_open

import adapt
from adapt.checkpoint.files import sha256_of
from adapt.data.packed.codecs import Pixels
from adapt.errors import DataError
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.tracking.logged_models import TrackedModel
from adapt.use.pyfunc import _load_pyfunc
from storage.stores import Stores
from tests.tracking.recorded import DELIVERY_S, open_tracker
from tests.use.conftest import SPACE

MODEL = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    segmenter = build_segmenter({**MODEL, "weights": "none"}, 19)
    for values in segmenter.parameters():  # as they start, one class wins everywhere
        torch.nn.init.normal_(values, std=0.3)
    header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, (16, 24))
    path = tmp_path / "weights.safetensors"
    write_weights(segmenter.state_dict(), header.entries(), path)
    return path


@pytest.fixture
def images() -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)


def register(weights: Path, uri: str, tracking_uri: str, name: str, spool: Path) -> None:
    """What a job does with its best checkpoint, whose weights are at `uri`."""
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
    sha256 = sha256_of(weights)
    tracker = open_tracker(tracking_uri, spool, name, register_as=name)
    tracker.log_model(TrackedModel("step-00000001", uri, sha256, 1, header), ["step-00000001"])
    tracker.register_best(uri, sha256, {"miou": 0.5})
    assert tracker.finish("FINISHED", DELIVERY_S)


@pytest.mark.slow
def test_the_best_is_loaded_by_its_alias_and_predicts_the_same_pixels(
    mlflow_uri: str,
    weights: Path,
    images: Pixels,
    tmp_path: Path,
    s3_server: Any,
    s3_stores: Stores,
    s3_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3_stores.open(s3_uri).put_file("weights.safetensors", weights)
    for variable, value in {
        "AWS_ENDPOINT_URL_S3": s3_server.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(variable, value)
    register(weights, f"{s3_uri}/weights.safetensors", mlflow_uri, "pyfunc-net", tmp_path)
    mlflow.set_tracking_uri(mlflow_uri)
    model = mlflow.pyfunc.load_model("models:/pyfunc-net@best", model_config={"device": "cpu"})
    found = model.predict(images)
    expected = adapt.load(weights, device="cpu").predict(list(images))
    assert (found.shape, found.dtype) == ((3, 20, 30), np.uint8)
    assert len(np.unique(found)) > 1
    for own, one in zip(found, expected, strict=True):
        assert np.array_equal(own, one.class_map)
    assert adapt.load("models:/pyfunc-net@best", tracking_uri=mlflow_uri).size_hw == (16, 24)
    example = model.input_example
    assert example is not None and model.predict(example).shape == (1, 32, 64)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    s3_stores.open(s3_uri).put_file("weights.safetensors", weights)
    with pytest.raises(DataError, match="expected sha256"):
        mlflow.pyfunc.load_model("models:/pyfunc-net@best")


def test_wrong_images_are_refused(weights: Path, images: Pixels, tmp_path: Path) -> None:
    facts = {"uri": str(weights), "sha256": sha256_of(weights), "stores": {}}
    (tmp_path / "weights.json").write_text(json.dumps(facts))
    model = _load_pyfunc(str(tmp_path / "weights.json"), {"device": "cpu"})
    for wrong in (images[0], images[..., :2], images.astype(np.float32)):
        with pytest.raises(DataError, match=r"images: expected \(B, H, W, 3\) uint8, got"):
            model.predict(wrong)
    assert model.predict(images[:0]).shape == (0, 20, 30)
