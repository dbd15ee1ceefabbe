"""What FRRN promises beyond the contract of architectures: two streams, and units in one chain."""

from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.batch import IGNORED, Prediction
from adapt.errors import JobError
from adapt.losses import bootstrapped_cross_entropy
from adapt.models import build_segmenter
from adapt.models.decoders.frrn import FRRNConfig
from adapt.models.encoders.frrn import FullResolutionResidualUnit, ResidualUnit

torch.set_num_threads(1)
NUM_CLASSES = 5
SIZES = {
    "frrn_a": [2] * 3 + [4] * 4 + [8] * 2 + [16] * 2 + [8] * 2 + [4] * 2 + [2] * 2,
    "frrn_b": [2] * 3 + [4] * 4 + [8] * 2 + [16] * 2 + [32] * 2 + [16, 16, 8, 8, 4, 4, 2, 2],
}
"""Reduction of the pooling stream in each full-resolution unit, first to last."""


class Passed(NamedTuple):
    """What a unit was given, and gave: pooling and residual stream."""

    unit: Any
    given: tuple[Tensor, Tensor]
    made: tuple[Tensor, Tensor]


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    segmenter = build_segmenter({"architecture": "frrn", **changes}, NUM_CLASSES).eval()
    _vary_norms(segmenter)
    return segmenter


def _vary_norms(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.normal_(tensor, std=0.3)


@pytest.fixture(scope="module", params=SIZES)
def segmenter(request: pytest.FixtureRequest) -> Any:
    return _build(encoder=request.param, output_stride=max(SIZES[request.param]))


@torch.no_grad()
def _run(segmenter: Any, *watched: nn.Module) -> tuple[list[Passed], list[Tensor]]:
    """What all units passed on, and what the watched modules were given."""
    units, watched_given = list[Passed](), list[Tensor]()
    hooks = [
        unit.register_forward_hook(lambda *passed: units.append(Passed(*passed)))
        for unit in segmenter.modules()
        if isinstance(unit, FullResolutionResidualUnit)
    ]
    for module in watched:
        hooks.append(module.register_forward_pre_hook(lambda _, given: watched_given.extend(given)))
    segmenter(torch.randn(1, 3, 64, 96))
    for hook in hooks:
        hook.remove()
    return units, watched_given


def test_every_unit_reads_the_streams_of_the_one_before(segmenter: Any) -> None:
    units, _ = _run(segmenter)
    assert [64 // one.given[0].shape[-2] for one in units] == SIZES[segmenter.encoder.name]
    for one, after in pairwise(units):
        (pooling, residual), (read, read_residual) = one.made, after.given
        if read.shape[-1] < pooling.shape[-1]:
            pooling = F.max_pool2d(pooling, 2)
        elif read.shape[-1] > pooling.shape[-1]:
            pooling = F.interpolate(pooling, scale_factor=2, mode="bilinear")
        torch.testing.assert_close(read, pooling)
        assert torch.equal(read_residual, residual)


def test_the_residual_stream_is_only_ever_added_to(segmenter: Any) -> None:
    for unit in segmenter.modules():
        if isinstance(unit, FullResolutionResidualUnit):
            nn.init.zeros_(unit.to_residual.weight)
            nn.init.ones_(unit.to_residual.bias)
    encoder, merge = segmenter.encoder, segmenter.decoder.merge
    units, (base, joined) = _run(segmenter, encoder.split, merge)
    start = encoder.split(base)
    assert (start < 0).any()  # no ReLU
    assert torch.equal(units[0].given[1], start)
    assert torch.equal(units[0].given[0], F.max_pool2d(base, 2))
    torch.testing.assert_close(joined[:, -32:], start + len(units))
    last = F.interpolate(units[-1].made[0], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(joined[:, :-32], last)


@torch.no_grad()
def test_full_resolution_unit_by_hand() -> None:
    torch.manual_seed(0)
    unit = FullResolutionResidualUnit(6, 5).eval()
    _vary_norms(unit)
    pooling, residual = torch.randn(2, 6, 3, 2), torch.randn(2, 32, 12, 8)
    conv1, norm1, _, conv2, norm2, _ = unit.block
    expected = torch.cat([pooling, F.max_pool2d(residual, 4)], dim=1)
    expected = F.relu(norm2(conv2(F.relu(norm1(conv1(expected))))))
    added = unit.to_residual(expected).repeat_interleave(4, 2).repeat_interleave(4, 3)
    found, found_residual = unit(pooling, residual)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_residual, residual + added)


@torch.no_grad()
def test_residual_unit_has_no_relu_after_its_sum() -> None:
    torch.manual_seed(0)
    same, wider = ResidualUnit(4, 4).eval(), ResidualUnit(3, 4).eval()
    features = torch.randn(1, 4, 6, 6)
    for unit in (same, wider):
        nn.init.zeros_(unit.branch[-1].weight)
    assert torch.equal(same(features), features)
    projected = F.conv2d(features[:, :3], wider.shortcut.weight)
    assert (projected < 0).any()
    assert torch.equal(wider(features[:, :3]), projected)


def test_losses_count_the_hardest_pixels_of_each_head() -> None:
    segmenter = _build(hardest_pixels=7)
    logits = tuple(torch.randn(2, NUM_CLASSES, 8, 9) for _ in range(2))
    labels = torch.randint(NUM_CLASSES, (2, 8, 9))
    labels[:, :2] = IGNORED
    losses = segmenter.segmentation_losses(Prediction(logits, (), {}), labels)
    expected = [bootstrapped_cross_entropy(head, labels, 7) for head in logits]
    assert losses == {"main": (1.0, expected[0]), "aux": (0.4, expected[1])}
    assert FRRNConfig().hardest_pixels == 32_768


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet18"}, "model.encoder: expected frrn_a or frrn_b, got 'resnet18'"),
        ({"encoder": "frrn_c"}, "model.encoder: expected frrn_a or frrn_b, got 'frrn_c'"),
        (
            {"encoder": "frrn_b"},
            "model.output_stride: expected 32, the only one of encoder 'frrn_b', got 16",
        ),
        (
            {"output_stride": 32},
            "model.output_stride: expected 16, the only one of encoder 'frrn_a', got 32",
        ),
        ({"weights": "imagenet"}, "model.weights: expected none, got 'imagenet'"),
        ({"hardest_pixels": 0}, "model.hardest_pixels: expected a positive integer.*, got 0"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        _build(**changes)
