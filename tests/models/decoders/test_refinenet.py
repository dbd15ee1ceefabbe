"""What RefineNet promises beyond the contract of architectures: residual units and chains that
pass their input on, and a cascade from deep to shallow.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.decoders.refinenet import ChainedResidualPooling, RefineNetBlock, ResidualConvUnit
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGES = torch.empty(1, 3, 64, 96)


def _build(**changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "refinenet", "encoder": "resnet18", "weights": "none", **changes}
    return build_segmenter(values, NUM_CLASSES).eval()


@pytest.fixture(scope="module")
def segmenter() -> Any:
    return _build()


def _stages(segmenter: Any) -> list[Tensor]:
    return random_stages(segmenter, tuple(IMAGES.shape[-2:]), draw=torch.rand)


def _residual(features: Tensor, units: Sequence[Any]) -> Tensor:
    """Each unit's input passed on as it came, plus its branch."""
    for unit in units:
        inner = F.conv2d(F.relu(features), unit.conv1.weight, unit.conv1.bias, padding=1)
        features = features + F.conv2d(F.relu(inner), unit.conv2.weight, padding=1)
    return features


def _chained(features: Tensor, convs: Sequence[Any]) -> Tensor:
    """Every link pools, then convolves, and is added."""
    total = link = F.relu(features)
    for conv in convs:
        link = F.conv2d(F.max_pool2d(link, 5, stride=1, padding=2), conv.weight, padding=1)
        total = total + link
    return total


@torch.no_grad()
def test_residual_unit_passes_its_input_on_unactivated() -> None:
    torch.manual_seed(0)
    unit = ResidualConvUnit(4)
    features = torch.randn(2, 4, 7, 9)
    before = features.clone()
    torch.testing.assert_close(unit(features), _residual(features, [unit]))
    nn.init.zeros_(unit.conv2.weight)
    assert torch.equal(unit(features), before)
    assert torch.equal(features, before)


@torch.no_grad()
def test_every_link_of_a_chain_is_pooled_convolved_and_added() -> None:
    torch.manual_seed(0)
    pooling = ChainedResidualPooling(4)
    features = torch.randn(2, 4, 11, 13)
    assert len(pooling.convs) == 4
    torch.testing.assert_close(pooling(features), _chained(features, pooling.convs))
    for conv in pooling.convs[1:]:
        nn.init.zeros_(conv.weight)
    torch.testing.assert_close(pooling(features), _chained(features, pooling.convs[:1]))


@pytest.mark.parametrize("deeper_channels", [8, None])
@torch.no_grad()
def test_block_by_hand(deeper_channels: int | None) -> None:
    torch.manual_seed(0)
    block = RefineNetBlock(6, 4, deeper_channels)
    stage, deeper = torch.randn(1, 6, 8, 12), None
    assert (len(block.adapt), len(block.refine)) == (2, 3)
    fused = _residual(F.conv2d(stage, block.reduce.weight, padding=1), block.adapt)
    if deeper_channels is not None:
        deeper = torch.randn(1, deeper_channels, 4, 6)
        smaller = F.conv2d(deeper, block.fuse_deeper.weight, padding=1)
        fused = F.conv2d(fused, block.fuse_stage.weight, padding=1)
        fused = fused + F.interpolate(smaller, scale_factor=2, mode="bilinear")
    expected = _residual(_chained(fused, block.pooling.convs), block.refine)
    torch.testing.assert_close(block(stage, deeper), expected)


def test_the_cascade_reads_four_stages_from_deep_to_shallow() -> None:
    refined = list[Tensor]()
    with torch.device("meta"):
        segmenter = _build()
        for block in segmenter.decoder.blocks:
            block.register_forward_hook(lambda *passed: refined.append(passed[2]))
        stages = _stages(segmenter)
        (main, aux), _ = segmenter.decoder(IMAGES, tuple(stages))
    sizes = [tuple(one.shape[1:]) for one in refined]
    assert sizes == [(512, 2, 3), (256, 4, 6), (256, 8, 12), (256, 16, 24)]
    expected = ([4], [3, 4], [2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4])
    for features, read in zip((*refined, main, aux), expected, strict=True):
        gradients = torch.autograd.grad(
            features.sum(), stages, retain_graph=True, allow_unused=True
        )
        assert [level for level, one in enumerate(gradients) if one is not None] == read
    assert (main.shape[-2:], aux.shape[-2:]) == ((16, 24), (8, 12))


def test_the_decoder_has_no_batch_norm(segmenter: Any) -> None:
    norms = nn.modules.batchnorm._BatchNorm
    assert not [one for one in segmenter.decoder.modules() if isinstance(one, norms)]


@torch.no_grad()
def test_dropout_on_the_two_deepest_stages_and_before_the_classifier(segmenter: Any) -> None:
    decoder, seen, refined = segmenter.decoder, list[Tensor](), list[Tensor]()
    watched = [*(block.reduce for block in decoder.blocks), decoder.classifier]
    hooks = [one.register_forward_pre_hook(lambda _, given: seen.append(*given)) for one in watched]
    hooks.append(
        decoder.blocks[-1].register_forward_hook(lambda *passed: refined.append(passed[2]))
    )
    stages = tuple(torch.ones_like(stage) for stage in _stages(segmenter))
    decoder.train()(IMAGES, stages)
    decoder.eval()
    for hook in hooks:
        hook.remove()
    *reduced, classified = seen
    values = [set(one.unique().tolist()) for one in reduced]
    assert values == [{0.0, 2.0}, {0.0, 2.0}, {1.0}, {1.0}]
    ratios = classified / refined[0]
    assert ((ratios == 0) | (ratios == 2)).all()
    assert (ratios == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_another_output_stride_is_refused() -> None:
    with pytest.raises(JobError, match=r"model.output_stride: .*32, got 16"):
        _build(output_stride=16)
