"""timm's backbones behind the contract of `Encoder`: sizes at every output stride, what dilation
computes, multi-grid, weights. Large ones are asked on the meta device, without memory.
"""

import warnings
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models.encoders.pretrained import default_weights
from adapt.models.encoders.timm import TESTED_ENCODERS, TimmEncoder, known_output_strides
from tests.tiers import one_in

torch.set_num_threads(1)
UNDILATED = ("nasnetalarge", "pnasnet5large")
"""Undilated and with a first convolution that is not padded."""

AT_EACH_STRIDE = [
    (name, stride)
    for name in TESTED_ENCODERS
    for stride in ((32,) if name in UNDILATED else (8, 16, 32))
]
PARAMETERS = {
    "vgg16": 14_714_688,
    "vgg16_bn": 14_723_136,
    "vgg19_bn": 20_035_392,
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnet50s": 23_508_032 + 123_776,
    "resnet101s": 42_500_160 + 123_776,
    "resnext101_32x8d": 86_742_336,
    "densenet121": 6_953_856,
    "densenet161": 26_472_000,
    "densenet169": 12_484_480,
    "densenet201": 18_092_928,
    "mobilenetv2_100": 1_811_712,
    "mobilenetv3_large_100": 2_971_952,
    "mobilenetv3_small_100": 927_008,
    "nasnetalarge": 84_720_150,
    "pnasnet5large": 81_736_668,
    "efficientnet_lite0": 2_958_848,
}
CLASSIFIERS = {"fc", "classifier", "head", "pre_logits", "conv_head", "bn2", "last_linear"}
SMALL_ENCODERS = (
    "vgg11_bn",
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "efficientnet_lite0",
    "tf_efficientnet_lite0",
    "convnext_atto",
)
LAST_THREE = {
    "vgg16": ["features_24", "features_26", "features_28"],
    "resnet18": ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"],
    "resnet50": ["layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"],
    "densenet121": [f"features_denseblock4.denselayer{layer}.conv2" for layer in (14, 15, 16)],
    "mobilenetv2_100": [f"blocks.{block}.conv_dw" for block in ("5.1", "5.2", "6.0")],
    "tf_efficientnet_lite0": [f"blocks.{block}.conv_dw" for block in ("5.2", "5.3", "6.0")],
}


def output_strides(name: str) -> tuple[int, ...]:
    """Which the backbone can have."""
    found = []
    for output_stride in (8, 16, 32):
        with suppress(JobError):
            found.append(on_meta(name, output_stride).output_stride)
    return tuple(found)


def on_meta(name: str, output_stride: int = 32) -> Any:
    with torch.device("meta"):
        return TimmEncoder(name, output_stride)


@cache
def shared(name: str, output_stride: int = 32) -> Any:
    """For tests that change nothing."""
    return on_meta(name, output_stride)


def sizes(encoder: Any, height: int, width: int) -> list[tuple[int, ...]]:
    with torch.no_grad():
        stages = encoder.eval()(torch.empty(1, 3, height, width, device="meta"))
    return [tuple(stage.shape[1:]) for stage in stages]


def dilations(encoder: Any) -> dict[str, int]:
    """By name, of every convolution larger than 1x1."""
    return {
        name: module.dilation[0]
        for name, module in encoder.backbone.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    }


def whole_network(name: str) -> dict[str, Tensor]:
    """Its weights, classifier included: tensor number n is full of n, and takes no memory."""
    with torch.device("meta"):
        shapes = timm.create_model(name).state_dict()
    return {
        key: torch.full((), number, dtype=tensor.dtype).expand(tensor.shape)
        for number, (key, tensor) in enumerate(shapes.items())
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "output_stride"), one_in(2, AT_EACH_STRIDE))
def test_stages_have_the_declared_sizes(name: str, output_stride: int) -> None:
    encoder = shared(name, output_stride)
    declared = list(zip(encoder.channels, encoder.reductions, strict=True))
    stages = [(channels, 64 // step, 128 // step) for channels, step in declared]
    if name in UNDILATED:
        stages[0] = (encoder.channels[0], 31, 63)
    assert sizes(encoder, 64, 128) == stages
    assert max(encoder.reductions) == encoder.reductions[-1] == output_stride
    for (_, height, width), step in zip(sizes(encoder, 97, 161), encoder.reductions, strict=True):
        assert abs(height - 97 / step) <= 1
        assert abs(width - 161 / step) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters_are_the_networks_without_its_classifier(name: str, count: int) -> None:
    encoder = shared(name, 32 if name in UNDILATED else 8)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("vgg11", (8, 16, 32)),
        ("densenetblur121d", (8, 16, 32)),
        ("resnet18", (8, 16, 32)),
        ("nasnetalarge", (32,)),
        ("pnasnet5large", (32,)),
        ("hrnet_w18_small", ()),
        ("vit_tiny_patch16_224", ()),
        ("resnet50.nonsense", ()),
    ],
)
def test_output_strides_are_those_that_can_be_built(name: str, strides: tuple[int, ...]) -> None:
    assert output_strides(name) == strides
    assert known_output_strides(name) == (strides if name in TESTED_ENCODERS else ())


def test_output_strides_of_tested_encoders_are_known_without_building_them() -> None:
    """`AT_EACH_STRIDE`, all of which other tests build."""
    known = [(name, one) for name in TESTED_ENCODERS for one in known_output_strides(name)]
    assert known == AT_EACH_STRIDE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride", "channels", "reductions"),
    [
        ("vgg16", 32, (64, 128, 256, 512, 512, 512), (1, 2, 4, 8, 16, 32)),
        ("vgg16", 16, (64, 128, 256, 512, 512), (1, 2, 4, 8, 16)),
        ("vgg16", 8, (64, 128, 256, 512, 512), (1, 2, 4, 8, 8)),
        ("densenet161", 16, (96, 384, 768, 2112, 2208), (2, 4, 8, 16, 16)),
        ("densenet161", 8, (96, 384, 768, 2112, 2208), (2, 4, 8, 8, 8)),
    ],
)
def test_stages_of_what_is_dilated_here(
    name: str, output_stride: int, channels: tuple[int, ...], reductions: tuple[int, ...]
) -> None:
    encoder = shared(name, output_stride)
    assert (encoder.channels, encoder.reductions) == (channels, reductions)


@pytest.mark.parametrize(
    ("name", "output_stride", "rates"),
    [
        ("vgg16", 16, {}),
        ("vgg16", 8, {"features_24": 2, "features_26": 2, "features_28": 2}),
        ("vgg16_bn", 8, {"features_34": 2, "features_37": 2, "features_40": 2}),
        ("densenet121", 16, {"features_denseblock4": 2}),
        ("densenet121", 8, {"features_denseblock3": 2, "features_denseblock4": 4}),
        ("densenetblur121d", 8, {"features_denseblock3": 2, "features_denseblock4": 4}),
    ],
)
def test_only_convolutions_after_a_removed_pool_are_dilated(
    name: str, output_stride: int, rates: dict[str, int]
) -> None:
    found = dilations(shared(name, output_stride))
    assert found == {key: rates.get(key.split(".")[0], 1) for key in found}
    assert rates.keys() <= {key.split(".")[0] for key in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride", "pools"),
    [
        ("vgg11", 16, []),
        ("vgg11", 8, ["features_15"]),
        ("vgg11_bn", 8, ["features_21"]),
        ("densenet121", 16, ["features_transition3.pool"]),
        ("densenet121", 8, ["features_transition2.pool", "features_transition3.pool"]),
    ],
)
def test_dilated_on_a_grid_is_undilated_with_pools_that_only_skip(
    name: str, output_stride: int, pools: list[str]
) -> None:
    """A removed pool keeps every pixel: every second one is what a stride of two would keep."""
    dilated: Any = TimmEncoder(name, output_stride).double().eval()
    skipping: Any = TimmEncoder(name, 32).double().eval()
    skipping.load(dilated.backbone.state_dict())
    for pool in pools:
        skipping.backbone.set_submodule(pool, nn.MaxPool2d(kernel_size=1, stride=2))
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        pairs = list(zip(dilated(images), skipping(images), strict=False))
    for stage, (found, expected) in enumerate(pairs):
        step = skipping.reductions[stage] // dilated.reductions[stage]
        torch.testing.assert_close(found[..., ::step, ::step], expected)
    assert len(pairs) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(2, TESTED_ENCODERS))
def test_whole_networks_weights_load_without_their_classifier(name: str) -> None:
    encoder = shared(name)
    with warnings.catch_warnings(action="ignore"):  # that nothing is copied to the meta device
        report = encoder.load(whole_network(name))
    assert report.loaded == len(encoder.backbone.state_dict())
    assert {key.split(".")[0] for key in report.dropped} <= CLASSIFIERS
    assert any(key.endswith("bias") for key in report.dropped)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_ENCODERS)
def test_weights_load_identically_at_every_output_stride(name: str) -> None:
    state = whole_network(name)
    flat = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    for output_stride in output_strides(name):
        encoder = on_meta(name, output_stride).to_empty(device="cpu")
        report = encoder.load(state)
        loaded = encoder.backbone.state_dict()
        assert report.loaded == len(loaded) == len(state) - len(report.dropped)
        for key, tensor in loaded.items():
            assert torch.equal(tensor, flat[key.replace(".", "_")]), key


def test_torchvisions_densenets_load_under_the_names_of_their_files() -> None:
    theirs = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): tensor
        for key, tensor in whole_network("densenet121").items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in theirs
    encoder: Any = TimmEncoder("densenet121", 8)
    assert encoder.load(theirs).loaded == len(encoder.backbone.state_dict())


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        *((name, 8) for name in SMALL_ENCODERS),
        pytest.param("nasnetalarge", 32, marks=pytest.mark.slow),
        pytest.param("pnasnet5large", 32, marks=pytest.mark.slow),
    ],
)
def test_gradients_of_stages_reach_every_parameter(name: str, output_stride: int) -> None:
    encoder: Any = TimmEncoder(name, output_stride).train()
    stages = encoder(torch.randn(2, 3, 64, 64))
    sum(stage.square().mean() for stage in stages).backward()
    assert [key for key, value in encoder.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in encoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", LAST_THREE)
def test_multi_grid_dilates_the_last_three_convolutions(name: str, output_stride: int) -> None:
    encoder = on_meta(name, output_stride)
    before, declared, odd = dilations(encoder), sizes(encoder, 64, 128), sizes(encoder, 97, 161)
    encoder.spread((1, 2, 4))
    native = 16 if name.startswith("vgg") else 32  # the last pool comes after the last convolution
    rate = max(1, native // output_stride)
    last = dict(zip(LAST_THREE[name], (rate, 2 * rate, 4 * rate), strict=True))
    assert dilations(encoder) == {**before, **last}
    assert sizes(encoder, 64, 128) == declared
    assert sizes(encoder, 97, 161) == odd


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED_ENCODERS)
def test_pixels_are_those_of_the_weights_that_the_name_gets(name: str) -> None:
    expected: Any = timm.get_pretrained_cfg(default_weights(name))
    pixels = shared(name).pixels
    assert (pixels.mean, pixels.std, pixels.bgr) == (expected.mean, expected.std, False)


def test_pixels_follow_the_tag() -> None:
    tagged = on_meta("mobilenetv3_large_100.miil_in21k_ft_in1k").pixels
    assert (tagged.mean, tagged.std) == ((0.0,) * 3, (1.0,) * 3)
    assert on_meta("mobilenetv3_large_100.ra_in1k").pixels.mean == (0.485, 0.456, 0.406)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("nasnetalarge", 8, r"expected 32, the only one of .*, got 8: its cells reduce inside"),
        ("pnasnet5large", 16, r"expected 32, the only one of .*, got 16: its cells reduce"),
        ("vit_tiny_patch16_224", 16, r"model.encoder: .* any size, .*refuses 97x161 \(Input"),
        ("hiera_tiny_224", 32, r"model.encoder: .* any size, .*refuses 97x161"),
    ],
)
def test_what_cannot_serve_is_named_without_memory(
    name: str, output_stride: int, message: str
) -> None:
    with pytest.raises(JobError, match=message):
        on_meta(name, output_stride)


def test_stages_of_other_channels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimmEncoder, "forward", lambda _self, images: (images,))
    message = r"expected stages of 64, 64, .* channels, got \[\(1, 3, 97, 161\)\] with 'resnet18'"
    with pytest.raises(JobError, match=message):
        on_meta("resnet18", 32)
