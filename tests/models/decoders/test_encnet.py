"""What EncNet alone promises: the encoding layer, channels weighed by it, class presence."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapt.batch import IGNORED
from adapt.losses import classes_present
from adapt.models import build_segmenter
from adapt.models.decoders.encnet import CodewordEncoding, ContextEncoding

torch.set_num_threads(1)
NUM_CLASSES = 5


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "encnet", "encoder": "resnet18", "weights": "none", **changes}
    return build_segmenter(values, NUM_CLASSES).eval()


def _transcribed(features: Tensor, codewords: Tensor, smoothing: Tensor) -> Tensor:
    """Sec. 3.1 of the paper, by residuals (B, N, K, D)."""
    residuals = features.flatten(2).transpose(1, 2)[:, :, None] - codewords
    weights = (smoothing * residuals.square().sum(dim=3)).softmax(dim=2)
    return (weights[..., None] * residuals).sum(dim=1)


def test_encoding_is_the_papers_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    encoding = CodewordEncoding(6, 4).double()
    features = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    leaves = [features, encoding.codewords, encoding.smoothing]
    torch.nn.init.normal_(encoding.codewords)
    found, expected = encoding(features), _transcribed(*leaves)
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad(found, leaves, towards),
        torch.autograd.grad(expected, leaves, towards),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_nearest_codeword_gets_the_largest_weight() -> None:
    torch.manual_seed(0)
    encoding = CodewordEncoding(8, 5).double()
    assert (encoding.smoothing < 0).all()
    encoding.smoothing.fill_(encoding.smoothing[0])
    torch.nn.init.normal_(encoding.codewords)
    pixels = torch.randn(20, 8, 1, 1, dtype=torch.float64)  # one an image
    residuals = pixels.flatten(1)[:, None] - encoding.codewords
    weights = (encoding(pixels) / residuals).mean(dim=2)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(20, dtype=torch.float64))
    assert torch.equal(weights.argmax(dim=1), residuals.square().sum(dim=2).argmin(dim=1))


def test_encoding_starts_as_the_program_does() -> None:
    torch.manual_seed(0)
    encoding = CodewordEncoding(16, 4096)
    for values, low, high in ((encoding.smoothing, -1, 0), (encoding.codewords, -1 / 256, 1 / 256)):
        unit = (values.detach() - low) / (high - low)
        assert 0 <= unit.min() < 0.01
        assert 0.99 < unit.max() <= 1
        assert abs(unit.mean() - 0.5) < 0.02


def test_encoding_makes_no_tensor_of_pixels_by_codewords_by_channels() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            sizes = [one.numel() for one in tree_leaves(output) if isinstance(one, Tensor)]
            self.numel = max(self.numel, *sizes, 0)
            return output

    features = torch.randn(1, 64, 20, 20, requires_grad=True)
    with Largest() as largest:
        CodewordEncoding(64, 32)(features).square().sum().backward()
    assert largest.numel == features.numel()


@torch.no_grad()
def test_encoding_keeps_float32_under_bf16_and_float16() -> None:
    torch.manual_seed(0)
    encoding, features = CodewordEncoding(64, 8), (300 * torch.randn(1, 64, 6, 6)).half()
    torch.nn.init.normal_(encoding.codewords, std=300)
    encoding.smoothing.mul_(1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoding(features)
    assert found.dtype == torch.float32
    exact = _transcribed(features.double(), *(one.double() for one in encoding.parameters()))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-1)  # of up to 3000


@torch.no_grad()
def test_context_weighs_the_features_by_the_encoding() -> None:
    torch.manual_seed(0)
    context = ContextEncoding(8).double().train()
    for parameter in context.norm.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(3, 8, 5, 6, dtype=torch.float64)
    weighed, described = context(features)
    encoded = context.encoding(context.project(features))
    assert encoded.shape == (3, 32, 8)
    mean = encoded.mean(dim=(0, 2), keepdim=True)  # a codeword's, over images and channels
    variance = encoded.var(dim=(0, 2), keepdim=True, correction=0)
    normed = (encoded - mean) / (variance + context.norm.eps).sqrt()
    normed = normed * context.norm.weight[:, None] + context.norm.bias[:, None]
    torch.testing.assert_close(described, normed.relu().mean(dim=1))
    linear, _ = context.weigh
    weights = linear(described).sigmoid()[:, :, None, None]
    torch.testing.assert_close(weighed, (features + features * weights).relu())


@torch.no_grad()
@pytest.mark.parametrize(("lateral", "read"), [(False, [4]), (True, [2, 3, 4])])
def test_lateral_joins_the_two_stages_before_the_deepest(lateral: bool, read: list[int]) -> None:
    decoder = _build(lateral=lateral).decoder
    stages = [torch.randn(1, one, 6, 6) for one in (64, 64, 128, 256, 512)]
    (main, aux), _ = decoder(torch.empty(0), stages)
    moved: dict[str, list[int]] = {"main": [], "aux": []}
    for number, stage in enumerate(stages):
        others, _ = decoder(torch.empty(0), [*stages[:number], stage + 1, *stages[number + 1 :]])
        for name, one, other in zip(moved, (main, aux), others, strict=True):
            moved[name] += [number] * (not torch.equal(one, other))
    assert moved == {"main": read, "aux": [3]}


def _labels() -> Tensor:
    labels = torch.full((3, 40, 56), IGNORED)
    labels[0, :9], labels[0, 9:12, 3], labels[1, -1, -1] = 2, 4, 0
    return labels  # of the third image all is ignored


def test_classes_present_by_brute_force() -> None:
    expected = [[one in image.unique() for one in range(NUM_CLASSES)] for image in _labels()]
    assert expected[0] == [False, False, True, False, True]
    assert not any(expected[2])
    assert classes_present(_labels(), NUM_CLASSES).tolist() == expected


def test_presence_is_a_binary_cross_entropy_of_logits() -> None:
    segmenter, labels = _build(), _labels()
    prediction = segmenter(torch.randn(3, 3, 40, 56))
    losses = segmenter.segmentation_losses(prediction, labels)
    assert {name: weight for name, (weight, _) in losses.items()} == {
        "main": 1.0,
        "aux": 0.2,
        "presence": 0.2,
    }
    p, present = prediction.extra["presence"].sigmoid(), classes_present(labels, NUM_CLASSES)
    counted = present.any(dim=1)
    assert counted.tolist() == [True, True, False]  # the last image is ignored altogether
    expected = -torch.where(present, p.log(), (1 - p).log())[counted].mean()
    torch.testing.assert_close(losses["presence"][1], expected)

    losses["presence"][1].backward()  # reaches what the main head reads, past the classifier
    assert segmenter.decoder.context.encoding.codewords.grad.any()
    assert segmenter.encoder.backbone.conv1.weight.grad.any()
    assert segmenter.decoder.classifier[-1].weight.grad is None
