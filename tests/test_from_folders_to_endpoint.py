"""The whole way of a user over real servers: own folders, a run and its report, then the same
pixels from Python, the commands, MLflow, HTTP and, within its tolerance, ONNX.
"""

import io
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import mlflow
import numpy as np
import onnxruntime
import pytest
from PIL import Image

import adapt
from adapt.checkpoint.files import sha256_of
from adapt.data.packed.codecs import Pixels, resize_image
from adapt.platforms.local_stack import S3Server
from adapt.use.model import LoadedModel
from tests.commands import finish, start_python
from tests.conftest import TINY_HW, write_raw_folders
from tests.job_over_servers import Platform
from tests.serve.conftest import Process
from tests.servers import BUCKET
from tests.use.videos import frames_of, read_video, write_video

pytestmark = pytest.mark.slow
IN_ONNX = 0.999
"""Least share of pixels of which ONNX predicts the model's class (docs/use_your_model.md)."""
SECTIONS: dict[str, Any] = {
    "method": {"name": "source_only"},
    "optim": {"lr": 0.01},
    "train": {"steps": 30, "log_every_steps": 10},
    "evaluate": {"every_steps": 15, "pictures": 1},
}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server, mlflow_uri: str
) -> Platform:
    """Own folders, packed into the bucket and checked; a run on them, whose best is in `best`."""
    folder, uri = tmp_path_factory.mktemp("street"), f"s3://{BUCKET}/{uuid4().hex}"
    platform = Platform(folder, uri, s3_server, mlflow_uri)
    tracking = {"experiment": platform.experiment, "register_as": platform.experiment}
    validation = platform.values["validation"] | {"size_hw": list(TINY_HW)}
    platform.write(**SECTIONS, tracking=tracking, validation=validation)
    for split, count in (("train", 8), ("val", 3)):
        write_raw_folders(folder / "raw" / split, count, seed=count)
        packing = ("--split", split, "--name", "tiny", "--spec", "tiny.yaml")
        platform("pack", "folders", "raw", f"{uri}/packed", *packing)
    platform("check", "tiny.yaml")
    platform("run", "tiny.yaml")
    platform("download-best", platform.experiment, "--out", "best")
    return platform


@pytest.fixture(scope="module")
def model(trained: Platform, photos: list[Path]) -> LoadedModel:
    """That of the downloaded folder, which predicts several classes."""
    model = adapt.load(trained.folder / "best", device="cpu")
    assert model.size_hw == TINY_HW
    assert len(np.unique(model.predict(photos[0]).class_map)) > 1
    return model


@pytest.fixture(scope="module")
def photos(trained: Platform) -> list[Path]:
    """New pictures in a folder, of other sizes than those that were trained on."""
    folder = trained.folder / "photos"
    folder.mkdir()
    sources = sorted((trained.folder / "raw" / "val" / "images").iterdir())
    for number, source in enumerate(sources):
        with Image.open(source) as image:
            size = (90 + 10 * number, 70)
            image.resize(size, Image.Resampling.BICUBIC).save(folder / source.name)
    return sorted(folder.iterdir())


def pixels_of(file: Path | bytes) -> Pixels:
    with Image.open(file if isinstance(file, Path) else io.BytesIO(file)) as image:
        return np.array(image)


def test_the_report_is_beside_the_run_and_in_mlflow(trained: Platform) -> None:
    assert "runs/tiny/report.html" in trained.stored()
    run = trained.only_run()
    assert run.info.status == "FINISHED" and "report.html" in trained.artifacts(run)
    page = trained.mlflow.download_artifacts(run.info.run_id, "report.html", str(trained.folder))
    text = Path(page).read_text()
    assert all(band["name"] in text for band in trained.values["classes"])
    assert trained.experiment in text and trained.server.secret_key not in text


def test_python_loads_the_same_from_everywhere(
    trained: Platform, model: LoadedModel, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (trained.environment | trained.aws_variables()).items():
        monkeypatch.setenv(name, value)
    run, name = f"{trained.s3_uri}/runs/tiny", trained.experiment
    mlflow_uri = trained.environment["MLFLOW_TRACKING_URI"]
    places = [run, trained.folder / "best" / "weights.safetensors", f"models:/{name}@best"]
    for place in places:
        other = adapt.load(place, device="cpu", tracking_uri=mlflow_uri)
        assert (other.classes, other.lineage) == (model.classes, model.lineage)
        for own, expected in zip(other.predict(photos), model.predict(photos), strict=True):
            assert np.array_equal(own.class_map, expected.class_map)
            assert np.array_equal(own.probabilities, expected.probabilities)
    mlflow.set_tracking_uri(mlflow_uri)
    flavor = mlflow.pyfunc.load_model(f"models:/{name}@best", model_config={"device": "cpu"})
    image = pixels_of(photos[0])
    assert np.array_equal(flavor.predict(image[None])[0], model.predict(image).class_map)


def test_an_imported_copy_is_registered_and_predicts_the_same(
    trained: Platform, model: LoadedModel, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (trained.environment | trained.aws_variables()).items():
        monkeypatch.setenv(name, value)
    out, name = f"{trained.s3_uri}/imported/town.safetensors", f"{trained.experiment}-imported"
    asked = ("--out", out, "--register", name, "--spec", "tiny.yaml")
    trained("import-model", f"models:/{trained.experiment}@best", *asked)
    copy = adapt.load(f"models:/{name}@best", device="cpu")
    assert np.array_equal(copy.predict(photos[0]).class_map, model.predict(photos[0]).class_map)
    assert copy.lineage["step"] == model.lineage["step"]
    assert copy.lineage["imported_from"] == f"models:/{trained.experiment}@best"


def test_the_command_predicts_pictures_folders_videos_and_splits(
    trained: Platform, model: LoadedModel, photos: list[Path]
) -> None:
    video = write_video(trained.folder / "drive.mp4", frames_of(3, (60, 80)))
    split = f"{trained.s3_uri}/packed"
    asked = ("--device", "cpu", "--write", "ids,colours", "--spec", "tiny.yaml")
    trained("predict", "best", photos[0], "photos", video, "--out", "seen", *asked)
    trained("predict", "best", split, "--split", "val", "--out", "of_split", *asked)
    ids = trained.folder / "seen" / "ids"
    for photo in photos:
        expected = model.predict(photo).class_map
        assert np.array_equal(pixels_of(ids / photo.name), expected)
        assert np.array_equal(pixels_of(ids.parent / "colours" / photo.name), expected)
    for number, (_, frame) in enumerate(read_video(video)):
        found = pixels_of(ids / "drive" / f"{number:06d}.png")
        assert np.array_equal(found, model.predict(frame).class_map)
    packed = sorted((trained.folder / "of_split" / "ids").rglob("*.png"))
    raw = sorted((trained.folder / "raw" / "val" / "images").iterdir())
    for found, image in zip(packed, raw, strict=True):
        assert np.array_equal(pixels_of(found), model.predict(image).class_map)


def test_onnx_predicts_the_same_classes(
    trained: Platform, model: LoadedModel, photos: list[Path]
) -> None:
    trained("export", "best", "--out", "model.onnx", "--bundle", "edge", "--spec", "tiny.yaml")
    session = onnxruntime.InferenceSession(trained.folder / "model.onnx")
    script = (trained.folder / "edge" / "predict.py", *photos, "--out", "on_edge")
    assert finish(start_python(*script, folder=trained.folder)).code == 0
    for photo in photos:
        image, expected = pixels_of(photo), model.predict(photo).class_map
        inputs = {
            "images": resize_image(image, TINY_HW)[None],
            "size_hw": np.array(image.shape[:2], np.int64),
        }
        (found,) = session.run(["class_map"], inputs)
        assert np.mean(found[0] == expected) >= IN_ONNX
        assert np.mean(pixels_of(trained.folder / "on_edge" / photo.name) == expected) >= IN_ONNX


def test_the_server_answers_the_same_pixels(
    trained: Platform, model: LoadedModel, photos: list[Path]
) -> None:
    run = f"{trained.s3_uri}/runs/tiny"
    options = ("--spec", "tiny.yaml", "--device", "cpu", "--port", 0)
    process = Process(run, *options, folder=trained.folder, **trained.environment)
    try:
        with httpx.Client(base_url=process.ready(), timeout=60) as client:
            about = client.get("/v2/models/segadapt").json()
            assert model.lineage["step"] == about["parameters"]["lineage"]["step"]
            for photo in photos:
                expected = model.predict(photo).class_map
                headers = {"content-type": "image/png"}
                answer = client.post("/invocations", content=photo.read_bytes(), headers=headers)
                assert np.array_equal(pixels_of(answer.content), expected)
                assert np.array_equal(by_tensors(client, pixels_of(photo)), expected)
    finally:
        assert process.end() == 0, process.lines


def by_tensors(client: httpx.Client, image: Pixels) -> Pixels:
    """The class map of an image by KServe's v2 protocol, with binary tensors."""
    size = {"binary_data_size": image.size}
    tensor = {"name": "image", "datatype": "UINT8", "shape": image.shape, "parameters": size}
    output = {"name": "class_map", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = client.post(
        "/v2/models/segadapt/infer", content=head + image.tobytes(), headers=headers
    )
    assert answer.status_code == 200, answer.text
    start = int(answer.headers["inference-header-content-length"])
    return np.frombuffer(answer.content[start:], np.uint8).reshape(image.shape[:2])


def test_the_pixels_are_those_that_were_scored(trained: Platform) -> None:
    """The best of the run, and the file that all others are read from, are one."""
    tags = trained.only_run().data.tags
    weights = trained.folder / "best" / "weights.safetensors"
    assert sha256_of(weights) == tags["best_checkpoint_sha256"]
    asked = ("--checkpoint", weights, "--json")
    scored = json.loads(trained("evaluate", "tiny.yaml", *asked).out)
    assert scored["miou"] == float(tags["best_checkpoint_miou"])
