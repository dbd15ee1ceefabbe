"""`adapt.load`: the header of a file of weights is enough; older files need their spec."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adapt
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.errors import DataError, JobError
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, read_file_header, write_weights
from adapt.places import Place
from adapt.tracking.mlflow_database import make_database
from adapt.trainer.score import predict_checkpoint
from tests.conftest import TINY_CLASSES
from tests.trainer.jobs import job_of, run

MODEL = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
SPACE = LABEL_SPACES["cityscapes19"]
LINEAGE = {"version": "0.1.0", "step": 7}
FEWER = json.dumps([one.model_dump(mode="json") for one in SPACE.root[:-1]])


def sized(size_hw: list[int] | None, std: Sequence[float] = (1, 1, 1)) -> str:
    """The entry `segadapt.input` of a header."""
    return json.dumps({"size_hw": size_hw, "mean": [0, 0, 0], "std": list(std), "bgr": False})


@pytest.fixture(scope="module")
def header() -> FileHeader:
    segmenter = build_segmenter({**MODEL, "weights": "none"}, 19)
    views = {"flip": True, "scales": [1.0], "window_hw": None, "window_stride_hw": None}
    return FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, (32, 48), views, LINEAGE)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, header: FileHeader) -> Path:
    path = tmp_path_factory.mktemp("best") / "weights.safetensors"
    torch.manual_seed(1)
    write_weights(build_segmenter(header.config, 19).state_dict(), header.entries(), path)
    return path


def without_header(weights: Path, folder: Path, keep: str = "segadapt.model") -> Path:
    """The same tensors as an older version wrote them."""
    with safe_open(weights, framework="pt") as file:
        entries = {name: text for name, text in file.metadata().items() if name == keep}
    save_file(load_file(weights), folder / "weights.safetensors", entries or None)
    return folder / "weights.safetensors"


def test_the_one_file_is_enough(weights: Path, header: FileHeader) -> None:
    assert read_file_header(weights, "FILE") == header
    for where in (weights, weights.parent, f"{weights.parent}/"):
        model = adapt.load(where, device="cpu")
        assert (model.classes, model.size_hw, model.lineage) == (SPACE, (32, 48), LINEAGE)
        assert model.views.flip and model.segmenter.config == header.config
    own = model.segmenter.state_dict()
    assert all(torch.equal(own[key], value) for key, value in load_file(weights).items())
    assert repr(model) == (
        "LoadedModel(deeplab_v2 on test_resnet, 19 classes, step 7, fp32 on cpu)"
    )


def test_equal_tensors_and_headers_are_equal_bytes(tmp_path: Path) -> None:
    """safetensors orders the entries of a header by chance."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.int64)}
    entries = {f"segadapt.{letter}": "ä\n\x7f" for letter in "hgfedcba"}
    write_weights(tensors, entries, tmp_path / "1.safetensors")
    write_weights(tensors, dict(reversed(entries.items())), tmp_path / "2.safetensors")
    content = (tmp_path / "1.safetensors").read_bytes()
    assert content == (tmp_path / "2.safetensors").read_bytes()
    assert (
        content.index(b"segadapt.a") < content.index(b"segadapt.b") < content.index(b"segadapt.h")
    )
    found = load_file(tmp_path / "1.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], value) for key, value in tensors.items())
    with safe_open(tmp_path / "1.safetensors", framework="pt") as file:
        assert file.metadata() == entries
    write_weights(tensors, {}, tmp_path / "3.safetensors")
    assert load_file(tmp_path / "3.safetensors").keys() == tensors.keys()


def test_an_older_file_needs_its_spec(
    weights: Path, tmp_path: Path, tiny_job: dict[str, Any]
) -> None:
    old = without_header(weights, tmp_path)
    assert read_file_header(old, "FILE") is None
    with pytest.raises(JobError, match=r"states the network, got none.*import-model .*spec=SPEC"):
        adapt.load(old)
    values = {**tiny_job, "classes": "cityscapes19", "model": {**MODEL, "weights": "none"}}
    values["source"]["dataset"] = values["target"]["dataset"] = "cityscapes"
    values["validation"].update(dataset="cityscapes", size_hw=[16, 24])
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(values))
    given = adapt.load(old, spec=tmp_path / "other.yaml", device="cpu")
    assert (given.classes, given.size_hw, given.lineage) == (SPACE, (16, 24), {})
    (tmp_path / "other.yaml").rename(tmp_path / "spec.yaml")
    beside = adapt.load(tmp_path, device="cpu")
    assert (beside.classes, beside.size_hw) == (SPACE, (16, 24))
    torch.save(load_file(old), tmp_path / "theirs.pth")
    other = adapt.load(tmp_path / "theirs.pth", spec=tmp_path / "spec.yaml", device="cpu")
    assert other.classes == SPACE


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("segadapt.network", "{", "segadapt.network: expected an entry of the header"),
        ("segadapt.network", "{}", r"segadapt.network.num_classes: missing, expected an integer"),
        ("segadapt.input", "[1]", r"segadapt.input: expected .*Fix: give the network's job spec"),
        ("segadapt.input", sized([-1, -1]), r"segadapt.input.size_hw\.0: expected an integer"),
        ("segadapt.input", sized([0, 8]), r"segadapt.input.size_hw\.0: expected an integer"),
        ("segadapt.input", sized([10**9, 8]), r"segadapt.input.size_hw\.0: expected an integer"),
        ("segadapt.input", sized([20000, 20000]), r"segadapt.input.size_hw: expected at most"),
        ("segadapt.input", sized(None, std=[1, 0, 1]), r"segadapt.input.std\.1: expected"),
        ("segadapt.lineage", "[]", r"segadapt.lineage: expected a mapping, got \[\]"),
        ("segadapt.classes", FEWER, "expected 19 classes, as the network has, got 18"),
        ("segadapt.views", '{"scales": [1e9]}', r"segadapt.views.scales\.0: expected a number"),
        ("segadapt.classes", '[{"name": "a"}]', "segadapt.classes"),
        ("segadapt.views", '{"flop": true}', "segadapt.views.flop"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(
    entry: str, text: str, message: str, weights: Path, header: FileHeader, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    write_weights(load_file(weights), {**header.entries(), entry: text}, path)
    with pytest.raises(JobError, match=message):
        adapt.load(path, device="cpu")


def test_where_there_is_no_network_is_said(weights: Path, tmp_path: Path) -> None:
    for where in (tmp_path / "absent", tmp_path):
        with pytest.raises(JobError, match=r"expected a file of weights or the folder .* got none"):
            adapt.load(where)
    with pytest.raises(JobError, match=r"device: expected a device .* got 'quantum'"):
        adapt.load(weights, device="quantum")
    with pytest.raises(JobError, match=r"precision: expected a known name, got 'fp8'"):
        adapt.load(weights, precision="fp8")


def test_classes_of_an_imported_file_are_asked_for(
    weights: Path, header: FileHeader, tmp_path: Path
) -> None:
    path = tmp_path / "imported.safetensors"
    entries = header.entries()
    write_weights(
        load_file(weights), {k: v for k, v in entries.items() if "classes" not in k}, path
    )
    with pytest.raises(JobError, match=r"header that states the classes, got none"):
        adapt.load(path)


@pytest.mark.slow
def test_a_run_s_checkpoints_state_everything(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """And predict what `segadapt predict` does, from the run's folder as from the delivered one."""
    tiny_job["train"]["steps"], tiny_job["evaluate"]["every_steps"] = 2, 2
    tiny_job["evaluate"] |= {"ema": True}
    tiny_job["train"]["ema"] = {}
    tiny_job["validation"]["size_hw"] = [24, 32]
    job = job_of(tiny_job)
    place = Place("local", {}, tmp_path / "scratch", model_dir=tmp_path / "model", grace_s=120)
    outcome, _ = run(job, place)
    assert outcome.best is not None
    folder = Path(job.checkpoint.uri) / "tiny"
    step = folder / outcome.best.name
    model = adapt.load(folder, device="cpu")
    assert model.classes == LabelSpace.model_validate(TINY_CLASSES)
    assert model.size_hw == (24, 32)
    lineage = dict(model.lineage)
    assert (lineage["step"], lineage["version"]) == (2, adapt.__version__)
    assert set(lineage["data"]) == {"source", "target", "validation"}
    ema = read_file_header(step / "ema.safetensors", "EMA")
    assert ema is not None and ema.lineage == lineage
    assert adapt.load(tmp_path / "model", device="cpu").lineage == lineage

    images = sorted((Path(tiny_job["source"]["uri"]).parent / "val" / "images").glob("*.png"))
    predict_checkpoint(job, place, str(step), None, tmp_path / "out", (48, 64))
    results = model.predict(images)
    assert len(results) == 5
    for path, result in zip(images, results, strict=True):
        (written,) = (tmp_path / "out").glob(f"*{path.stem}.png")
        assert np.array_equal(np.array(Image.open(written)), result.ids("tiny")), path

    content = bytearray((step / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (step / "weights.safetensors").write_bytes(content)
    for where in (folder, step):
        with pytest.raises(DataError, match="expected sha256"):
            adapt.load(where)


def test_a_registered_model_is_found_by_alias_and_version(weights: Path, tmp_path: Path) -> None:
    sqlite_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    make_database(sqlite_uri)
    client = MlflowClient(sqlite_uri)
    client.create_registered_model("town net")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    for sha256 in (digest, "00" * 32):
        client.create_model_version(
            "town net", str(weights), tags={"best_checkpoint_sha256": sha256}, await_creation_for=0
        )
    client.set_registered_model_alias("town net", "best", "1")
    client.create_registered_model("empty")
    for where in ("models:/town net@best", "models:/town net/1"):
        model = adapt.load(where, tracking_uri=sqlite_uri, device="cpu")
        assert model.lineage == LINEAGE
    with pytest.raises(DataError, match="expected sha256 0000"):
        adapt.load("models:/town net/2", tracking_uri=sqlite_uri)
    for where, message in (
        ("models:/town net@worst", r"a version or an alias of town net .* town net@best"),
        ("models:/town net/9", r"a version or an alias of town net .* town net/1"),
        ("models:/village@best", r"a registered model of MLflow .*known: empty, town net"),
        ("models:/empty@best", r"got a model without any\. Fix: train with tracking\.register_as"),
        ("models:/town net", r"expected models:/NAME@ALIAS or models:/NAME/VERSION"),
    ):
        with pytest.raises(JobError, match=message):
            adapt.load(where, tracking_uri=sqlite_uri)


def test_a_header_is_read_by_other_programs(weights: Path) -> None:
    """Every entry is JSON."""
    with safe_open(weights, framework="pt") as file:
        entries = {name: json.loads(text) for name, text in file.metadata().items()}
    assert entries["segadapt.classes"][0]["ids"]["cityscapes"] == [7]
    assert entries["segadapt.input"]["size_hw"] == [32, 48]
    assert entries["segadapt.network"]["model"]["weights"] == "none"
