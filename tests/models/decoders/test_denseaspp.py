"""What DenseASPP alone promises: dense connections, growing rates, and the program's details."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models import build_segmenter
from adapt.models.decoders.denseaspp import DenseASPPLayer

torch.set_num_threads(1)
NUM_CLASSES = 5


def _build(encoder: str = "resnet18", **changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "denseaspp", "encoder": encoder, "weights": "none", "aux": False}
    return build_segmenter({**values, **changes}, NUM_CLASSES)


def _of_kind(module: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [one for one in module.modules() if isinstance(one, kind)]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("encoder", ["resnet18", "densenet121.tv_in1k"])
def test_each_layer_reads_all_before_it_newest_first(encoder: str) -> None:
    segmenter = _build(encoder).eval()
    decoder, calls = segmenter.decoder, []
    for module in (decoder.transition, *decoder.layers, decoder.classifier):
        module.register_forward_hook(lambda _, args, output: calls.append((args[0], output)))
    deepest = segmenter(torch.randn(1, 3, 64, 96)).features[-1]
    inputs, outputs = zip(*calls, strict=True)
    assert torch.equal(inputs[0], deepest)
    assert outputs[0].shape[1] == deepest.shape[1] // 2
    assert outputs[-1].shape == (1, NUM_CLASSES, 8, 12)  # output stride 8
    for number in range(1, 7):
        assert torch.equal(inputs[number], torch.cat(outputs[number - 1 :: -1], dim=1)), number


@torch.no_grad()
def test_transition_rectifies_and_then_norms() -> None:
    transition, deepest = _build().decoder.transition.train(), torch.randn(2, 512, 9, 9)
    outputs = transition(deepest)
    torch.testing.assert_close(transition(deepest.clamp(min=0)), outputs)
    torch.testing.assert_close(outputs.mean(dim=(0, 2, 3)), torch.zeros(256), rtol=0, atol=1e-5)


@torch.no_grad()
def test_rates_are_the_papers() -> None:
    layers = _build().eval().decoder.layers
    for layer, rate in zip(layers, (3, 6, 12, 18, 24), strict=True):
        features = torch.randn(1, _of_kind(layer, nn.Conv2d)[0].in_channels, 51, 51)
        moved = features.clone()
        moved[..., 25, 25] += 1
        changed = (layer(moved) != layer(features)).any(dim=1)[0].nonzero().tolist()
        places = (25 - rate, 25, 25 + rate)
        assert changed == [[row, column] for row in places for column in places]


def _normed(features: Tensor, norm: Any) -> Tensor:
    values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, variance, weight, bias = (one[:, None, None] for one in values)
    return (features - mean) / (variance + norm.eps).sqrt() * weight + bias


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
def test_layers_norm_and_rectify_before_each_convolution(first: bool) -> None:
    torch.manual_seed(0)
    layer = DenseASPPLayer(4, (6, 5), rate=3, momentum=3e-4, first=first).double().eval()
    norms, (inner, outer) = _of_kind(layer, nn.BatchNorm2d), _of_kind(layer, nn.Conv2d)
    assert len(norms) == (1 if first else 2)
    for norm in norms:
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    features = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    before = features.clone()
    expected = features if first else _normed(features, norms[0])
    expected = F.conv2d(expected.relu(), inner.weight, inner.bias)
    expected = _normed(expected, norms[-1]).relu()
    expected = F.conv2d(expected, outer.weight, outer.bias, padding=3, dilation=3)
    torch.testing.assert_close(layer(features), expected)
    assert torch.equal(features, before)  # later layers read them too


@torch.no_grad()
def test_dropout_takes_whole_maps_of_layers_and_before_the_classifier() -> None:
    decoder, seen = _build().decoder.train(), []
    decoder.classifier[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder.classifier(torch.ones(8, 256 + 5 * 64, 3, 3))
    seen.append(decoder.layers[1](torch.randn(64, 256 + 64, 3, 3)))
    for maps in seen:
        dropped = (maps == 0).float().mean(dim=(2, 3))
        assert set(dropped.unique().tolist()) == {0.0, 1.0}
        assert 0.08 < dropped.mean() < 0.12


@torch.no_grad()
@pytest.mark.parametrize(("changes", "momentum"), [({}, 3e-4), ({"head_norm_momentum": 0.1}, 0.1)])
def test_statistics_of_the_head_move_slowly(changes: dict[str, float], momentum: float) -> None:
    decoder, checked = _build(**changes).decoder.train(), []

    def check(norm: Any, args: tuple[Tensor], _: Tensor) -> None:
        expected = momentum * args[0].mean(dim=(0, 2, 3))
        torch.testing.assert_close(norm.running_mean, expected, rtol=1e-3, atol=1e-7)
        checked.append(norm)

    for norm in _of_kind(decoder, nn.BatchNorm2d):
        norm.register_forward_hook(check)
    decoder(torch.empty(0), [torch.empty(0)] * 4 + [torch.randn(2, 512, 6, 6)])
    assert len(checked) == 1 + 1 + 4 * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "widths"),
    [
        ("resnet18", (128, 64)),
        ("densenet121.tv_in1k", (128, 64)),
        ("densenet169.tv_in1k", (336, 168)),
        ("densenet161.tv_in1k", (512, 128)),
        ("densenet201.tv_in1k", (480, 240)),
    ],
)
def test_widths_follow_the_encoder_whatever_its_weights(
    encoder: str, widths: tuple[int, int]
) -> None:
    with torch.device("meta"):
        layers = _build(encoder).decoder.layers
    for layer in layers:
        assert tuple(conv.out_channels for conv in _of_kind(layer, nn.Conv2d)) == widths
