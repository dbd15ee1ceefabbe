"""MODEL of `deploy`: resolved, pinned, refused where the platform does not reach it, and the name
that an endpoint gets from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile, model_uri
from adapt.platforms.deploy import endpoint_name, prepare_endpoint
from adapt.platforms.predict_jobs import Asked, prepare_prediction
from adapt.use.locate import Located
from storage.config import StoreConfig
from storage.errors import StoreError
from storage.stores import Stores
from tests.commands import ROOT
from tests.platforms.sagemaker_jobs import without_keys
from tests.storage.web_server import Answer, WebServer


def checkpoint(step: Path) -> Path:
    """A checkpoint's folder whose manifest states the sha256 of its weights."""
    step.mkdir(parents=True)
    (step / "weights.safetensors").touch()
    manifest = {"sha256": {"weights.safetensors": "cd" * 32}}
    (step / "manifest.json").write_text(json.dumps(manifest))
    return step


def docker(*mounts: dict[str, Any], **changes: Any) -> Any:
    values = {"platform": "docker", "image": "i", "gpus": 0, "mounts": [*mounts]}
    return validate(PLATFORMS["docker"].profile, values | changes)


def test_a_run_below_a_mount_of_this_machine_is_resolved_and_pinned(tmp_path: Path) -> None:
    """The request has the container's path of the step; what is not here stays as it was named."""
    checkpoint(tmp_path / "runs/town/step-00000500")
    mount = {"source": str(tmp_path), "target": "/mine"}
    weights = "/mine/runs/town/step-00000500/weights.safetensors"

    def found(model: str, profile: Any) -> tuple[str, str | None]:
        deployment = prepare_endpoint(model, profile, Stores({})).deployment
        return deployment.model, deployment.sha256

    for model in ("/mine/runs/town", "/mine/runs/town/", "/mine/runs/town/step-00000500", weights):
        assert found(model, docker(mount)) == (weights, "cd" * 32), model
    for unknown in (
        docker(mount, engine_uri="ssh://me@machine"),
        docker({"source": "volume", "target": "/mine"}),
        docker({"source": f"{tmp_path}/absent", "target": "/mine"}),
    ):
        assert found("/mine/runs/town", unknown) == ("/mine/runs/town", None)
    with pytest.raises(JobError, match="expected a file of weights or the folder of a checkpoint"):
        found("/mine", docker(mount))


def test_a_checkpoint_of_a_web_server_is_pinned_by_its_manifest(
    tmp_path: Path,
) -> None:
    """Without reading the weights; a server that has none, or refuses it, serves them unpinned."""
    step = checkpoint(tmp_path / "step-00000003")
    server = WebServer()
    server.files = {f"/town/{file.name}": file.read_bytes() for file in step.iterdir()}
    server.files["/town/weights.safetensors"] = bytes(100_000)
    try:
        folder, shared = f"{server.url}/town", docker(network="host")

        def found(model: str) -> tuple[str, str | None]:
            deployment = prepare_endpoint(model, shared, Stores({})).deployment
            return deployment.model, deployment.sha256

        weights = f"{folder}/weights.safetensors"
        assert found(folder) == found(weights) == (weights, "cd" * 32)
        reads = [one for one in server.requests if one.path.endswith("tensors")]
        assert all(one.headers.get("range") == "bytes=0-0" for one in reads)
        assert found(f"{weights}?signature=a/b")[1] is None
        server.files["/town/manifest.json"] = b"<html>the app</html>"
        assert found(weights) == (weights, None)
        server.answers.append(Answer(403))
        assert found(weights) == (weights, None)
        del server.files["/town/manifest.json"]
        assert found(folder) == (weights, None)
    finally:
        server.close()
    with pytest.raises(StoreError):
        prepare_endpoint(weights, shared, Stores({"http": StoreConfig(max_attempts=1)}))


@pytest.mark.parametrize(
    ("platform", "said"),
    [
        (
            "kubernetes",
            r"the URI of a store \(s3://, obs://.*\), or a path below /data \(volumes of",
        ),
        ("sagemaker", "s3://BUCKET/... or https://..."),
        ("modelarts", "obs://BUCKET/FOLDER"),
    ],
)
@pytest.mark.parametrize("model", ["best", "models:/town@best"])
def test_a_path_of_this_machine_is_refused_with_what_is_expected(
    model: str, platform: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best/weights.safetensors").touch()
    volume = "volumes=[{mount_path: /data, claim: towns}]"
    overrides = {"kubernetes": [volume], "modelarts": ["serve={flavor: modelarts.vm.gpu.t4u8}"]}
    shipped = f"{ROOT}/job_specs/platforms/{platform}.yaml"
    far = load_profile(shipped, overrides.get(platform, ()))
    version = Located(f"{tmp_path}/best/weights.safetensors")
    monkeypatch.setattr(model_uri, "registered", lambda *_: version)
    with pytest.raises(JobError, match=f"MODEL: expected {said}.*, got .*best"):
        prepare_endpoint(model, far, Stores({}))


def test_a_registered_model_in_a_store_without_its_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = Located("obs://towns/town/weights.safetensors")
    monkeypatch.setattr(model_uri, "registered", lambda *_: version)
    with pytest.raises(JobError, match=r"MODEL: expected stores\.obs\.endpoint_url.*--spec SPEC"):
        prepare_endpoint("models:/town@best", docker(), Stores({}))


@pytest.mark.parametrize("platform", ["docker", "kubernetes", "sagemaker", "modelarts"])
def test_a_server_of_this_machine_is_served_in_its_own_network_alone(platform: str) -> None:
    far = load_profile(f"{ROOT}/job_specs/platforms/{platform}.yaml", ())
    if platform == "docker":
        far = docker()
    with pytest.raises(JobError, match=f"MODEL: expected a server that {platform} reaches, got"):
        prepare_endpoint("http://localhost:8000/town", far, Stores({}))


@pytest.mark.parametrize("platform", ["docker", "kubernetes", "sagemaker", "modelarts"])
@pytest.mark.parametrize("model", ["s3://towns/town", "models:/town@best"])
def test_a_store_of_this_machine_is_refused_by_its_key(
    model: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_uri, "registered", lambda *_: Located("s3://towns/town/w.pt"))
    far = docker()
    if platform != "docker":
        far = load_profile(f"{ROOT}/job_specs/platforms/{platform}.yaml", ())
    stores = Stores({"s3://towns": StoreConfig(endpoint_url="http://127.0.0.1:8333")})
    said = rf'^stores\["s3://towns"\]\.endpoint_url: expected a server that {platform} reaches, got'
    with pytest.raises(JobError, match=said):
        prepare_endpoint(model, far, stores)


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"endpoint_url": "https://minio.lab"},
            "endpoint_url: expected none, since servers on sag",
        ),
        ({"access_key_env": "A", "secret_key_env": "B"}, "access_key_env: expected none, got one"),
    ],
)
def test_settings_that_sagemaker_s_servers_do_not_get(settings: dict[str, str], said: str) -> None:
    """They would read another store than `deploy` read here, or none."""
    far = load_profile(f"{ROOT}/job_specs/platforms/sagemaker.yaml", ())
    stores = Stores({"s3://towns": StoreConfig(**settings)})
    with pytest.raises(JobError, match=rf'^stores\["s3://towns"\]\.{said}'):
        prepare_endpoint("s3://towns/town/w.pt", far, stores)
    prepare_endpoint("s3://others/town/w.pt", far, stores)


@pytest.mark.parametrize(
    ("platform", "fix"),
    [
        (
            "sagemaker",
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on this machine, "
            "which looks the model up; on SageMaker role_arn reads it",
        ),
        (
            "kubernetes",
            "set those, or name the variables with the keys in stores.s3.access_key_env and "
            ".secret_key_env",
        ),
    ],
)
def test_without_keys_here_the_fix_is_one_that_the_platform_takes(
    platform: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_keys(monkeypatch, tmp_path)
    gpus = ["gpus=1"] if platform == "kubernetes" else []
    far = load_profile(f"{ROOT}/job_specs/platforms/{platform}.yaml", gpus)
    asked = Asked("s3://towns/town", ["s3://towns/photos"], "s3://towns/seen", [], 2, "0/1")
    for prepare in (
        lambda stores: prepare_endpoint("s3://towns/town", far, stores),
        lambda stores: prepare_prediction(asked, far, stores),
    ):
        with pytest.raises(StoreError, match="no credentials") as caught:
            prepare(Stores({}))
        assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("best/", "best"),
        ("models:/town@best", "town"),
        ("models:/town/3", "town"),
        ("s3://bucket/runs/Town_2/step-00002000/weights.safetensors", "town-2"),
        ("s3://bucket/runs/9lives", "model-9lives"),
        (".", "model"),
        ("x" * 50, "x" * 40),
    ],
)
def test_an_endpoint_is_named_after_its_model(model: str, name: str) -> None:
    assert endpoint_name(model, None) == name
    assert endpoint_name(model, "other") == "other"


def test_a_name_that_no_platform_takes_is_refused() -> None:
    with pytest.raises(JobError, match=r"--name: expected lower-case letters.*got 'My_Town'"):
        endpoint_name("best", "My_Town")
