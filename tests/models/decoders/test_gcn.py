"""What GCN promises beyond the contract of architectures: large kernels, linear, on score maps."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.decoders.gcn import BoundaryRefinement, GCNConfig, GlobalConvolution
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGES = torch.empty(1, 3, 64, 96)


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "gcn", "encoder": "resnet18", "weights": "none", **changes}
    return build_segmenter(values, NUM_CLASSES).eval()


@pytest.fixture
def segmenter() -> Any:
    return _build(kernel_size=5)


def _stages(segmenter: Any) -> list[Tensor]:
    return random_stages(segmenter, tuple(IMAGES.shape[-2:]))


@pytest.mark.parametrize("kernel_size", [1, 7, 15])
@torch.no_grad()
def test_global_convolution_sees_exactly_k_by_k_pixels(kernel_size: int) -> None:
    torch.manual_seed(0)
    convolution = GlobalConvolution(3, 4, kernel_size)
    features = torch.zeros(1, 3, 25, 27)
    dark = convolution(features)
    features[..., 12, 13] = 1
    response = (convolution(features) - dark)[0]
    reach = kernel_size // 2
    expected = torch.zeros(25, 27, dtype=torch.bool)
    expected[12 - reach : 13 + reach, 13 - reach : 14 + reach] = True
    assert torch.equal((response != 0).any(dim=0), expected)


@torch.no_grad()
def test_global_convolution_has_nothing_between_its_two_steps() -> None:
    torch.manual_seed(0)
    convolution = GlobalConvolution(3, 4, 7).double()
    first, second = torch.randn(2, 1, 3, 9, 11, dtype=torch.float64)
    bias = convolution(torch.zeros_like(first))
    together = convolution(first + second) - bias
    apart = (convolution(first) - bias) + (convolution(second) - bias)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_global_convolution_sums_both_orders() -> None:
    torch.manual_seed(0)
    convolution = GlobalConvolution(3, 4, 5)
    features = torch.randn(2, 3, 9, 11)
    expected = torch.zeros(2, 4, 9, 11)
    shapes = []
    for branch in convolution.branches:
        scores = features
        for conv in branch:
            height, width = conv.weight.shape[-2:]
            shapes.append((height, width))
            padding = (height // 2, width // 2)
            scores = F.conv2d(scores, conv.weight, conv.bias, padding=padding)
        expected += scores
    assert shapes == [(5, 1), (1, 5), (1, 5), (5, 1)]
    torch.testing.assert_close(convolution(features), expected)


@torch.no_grad()
def test_boundary_refinement_by_hand() -> None:
    torch.manual_seed(0)
    refinement = BoundaryRefinement(4)
    scores = torch.randn(2, 4, 7, 9)
    first, second = (one for one in refinement.modules() if isinstance(one, nn.Conv2d))
    branch = F.relu(F.conv2d(scores, first.weight, first.bias, padding=1))
    expected = scores + F.conv2d(branch, second.weight, second.bias, padding=1)
    torch.testing.assert_close(refinement(scores), expected)


def test_all_maps_are_score_maps_without_batch_norm(segmenter: Any) -> None:
    modules = list(segmenter.decoder.modules())
    convs = [one for one in modules if isinstance(one, nn.Conv2d)]
    assert {conv.out_channels for conv in convs} == {NUM_CLASSES}
    assert not [one for one in modules if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def test_each_head_reads_the_stages_from_its_size_down(segmenter: Any) -> None:
    assert segmenter.head_names == ("main", "aux_8", "aux_16")
    stages = _stages(segmenter)
    heads, _ = segmenter.decoder(IMAGES, tuple(stages))
    assert [head.shape[-2:] for head in heads] == [(64, 96), (8, 12), (4, 6)]
    for logits, expected in zip(heads, ([1, 2, 3, 4], [2, 3, 4], [3, 4]), strict=True):
        gradients = torch.autograd.grad(logits.sum(), stages, retain_graph=True, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == expected


@torch.no_grad()
def test_scores_are_doubled_added_and_refined_once_each(segmenter: Any) -> None:
    passed: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for one in segmenter.decoder.modules():
        if isinstance(one, BoundaryRefinement):
            one.register_forward_hook(
                lambda _, given, made: passed.setdefault(made.shape[2], []).append((*given, made))
            )
    heads, _ = segmenter.decoder(IMAGES, tuple(_stages(segmenter)))
    counts = {size: len(ones) for size, ones in passed.items()}
    assert counts == {2: 1, 4: 2, 8: 2, 16: 2, 32: 1, 64: 1}  # of scores, then of sums
    total = passed[2][0][1]
    for size in (4, 8, 16, 32, 64):
        *scores, (given, made) = passed[size]
        expected = F.interpolate(total, scale_factor=2, mode="bilinear")
        torch.testing.assert_close(given, sum((one for _, one in scores), start=expected))
        total = made
    for logits, size in zip(heads, (64, 8, 4), strict=True):
        assert torch.equal(logits, passed[size][-1][1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 14}, "model.kernel_size: expected an odd number.*, got 14"),
        ({"kernel_size": 0}, "model.kernel_size: expected a positive integer, got 0"),
        ({"output_stride": 8}, "model.output_stride: .*32, got 8"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        _build(**changes)


def test_the_default_kernel_is_the_papers() -> None:
    assert GCNConfig().kernel_size == 15
