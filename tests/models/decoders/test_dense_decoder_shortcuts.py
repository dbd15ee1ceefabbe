"""What dense decoder shortcuts alone promise: each level reads all deeper ones as they were."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.decoders.dense_decoder_shortcuts import FeatureGeneration, ResNeXtBottleneck

torch.set_num_threads(1)
NUM_CLASSES, NO_IMAGES = 5, torch.empty(0)
SIZES_HW = [(40, 48), (20, 24), (10, 12), (5, 6), (3, 3)]


def _build(width: int = 64, **changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "dense_decoder_shortcuts", "encoder": "resnet18", "weights": "none"}
    return build_segmenter({**values, "width": width, **changes}, NUM_CLASSES).eval()


@pytest.fixture
def decoder() -> Any:
    """On batch statistics, so that little vanishes in its depth."""
    return _build().decoder.train()


@pytest.fixture
def stages() -> list[Tensor]:
    torch.manual_seed(1)
    channels = (64, 64, 128, 256, 512)
    return [torch.randn(2, one, *size) for one, size in zip(channels, SIZES_HW, strict=True)]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("moved", range(4))
def test_each_level_reads_all_deeper_levels_at_first_hand(
    decoder: Any, stages: list[Tensor], moved: int
) -> None:
    """All levels are made to give what they gave before, but for the one that moves."""
    before, after = [], []
    handles = [
        level.register_forward_hook(lambda _, __, output: before.append(output))
        for level in decoder.levels
    ]
    decoder(NO_IMAGES, stages)
    for number, (level, handle) in enumerate(zip(decoder.levels, handles, strict=True)):
        handle.remove()
        level.register_forward_hook(lambda _, __, output: after.append(output))
        given = before[number] + (number == moved)
        level.register_forward_hook(lambda _, __, output, given=given: given)
    decoder(NO_IMAGES, stages)
    changed = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert changed == [number > moved for number in range(4)]  # deepest first


@torch.no_grad()
def test_each_level_sums_its_own_features_and_all_deeper_outputs(
    decoder: Any, stages: list[Tensor]
) -> None:
    outputs, adapted, generated = [], [], []
    for level in decoder.levels:
        level.register_forward_hook(lambda _, __, output: outputs.append(output))
        level.adapt.register_forward_hook(lambda _, __, output: adapted.append(output))
        level.generate.register_forward_pre_hook(lambda _, args: generated.append(args[0]))
    logits, _ = decoder(NO_IMAGES, stages)
    torch.testing.assert_close(generated[0], adapted[0])
    for number in (1, 2, 3):
        fuse, size_hw = decoder.levels[number].fuse, SIZES_HW[4 - number]
        inputs = [adapted[number], *outputs[:number]]
        parts = [
            F.interpolate(project(one), size_hw, mode="bilinear")
            for project, one in zip(fuse, inputs, strict=True)
        ]
        torch.testing.assert_close(generated[number], torch.stack(parts).sum(dim=0).relu())
    torch.testing.assert_close(logits[0], decoder.classifier(outputs[3]))
    torch.testing.assert_close(logits[1], decoder.aux(outputs[2]))
    assert [one.shape[-2:] for one in logits] == [SIZES_HW[1], SIZES_HW[2]]


@torch.no_grad()
def test_chain_of_pools_is_tapped_at_each_link() -> None:
    """A link, 3x3 and 5x5, reaches 3 pixels farther than the one before; its tap one more."""
    torch.manual_seed(0)
    generation, reach = FeatureGeneration(64).eval(), []
    features = torch.rand(1, 64, 33, 33)
    moved = features.clone()
    moved[..., 16, 16] += 100
    outputs: list[Tensor] = []
    for tap in generation.taps:
        tap.register_forward_hook(lambda _, __, output: outputs.append(output))
    generation.refine.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    for one in (features, moved):
        generation(one)
    assert torch.equal(outputs[4], torch.cat(outputs[:4], dim=1))
    for before, after in zip(outputs[:4], outputs[5:9], strict=True):
        assert before.shape == (1, 16, 33, 33)
        places = (before != after).any(dim=1)[0].nonzero() - 16
        reach.append((places.min().item(), places.max().item()))
    assert reach == [(-4, 4), (-7, 7), (-10, 10), (-13, 13)]


@torch.no_grad()
def test_bottlenecks_are_residual_in_32_groups() -> None:
    torch.manual_seed(0)
    bottleneck, features = ResNeXtBottleneck(128).eval(), torch.randn(1, 128, 5, 5)
    grouped = next(one for one in bottleneck.modules() if getattr(one, "groups", 1) > 1)
    moved = torch.zeros(1, 64, 5, 5)
    moved[:, 2] = 1  # the second of 32 groups of 2
    assert grouped(moved).abs().sum(dim=(0, 2, 3)).nonzero().flatten().tolist() == [2, 3]
    for norm in (one for one in bottleneck.modules() if isinstance(one, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
    assert torch.equal(bottleneck(features), features.relu())


def _conv3(in_channels: int, out_channels: int) -> int:
    """Parameters of a 3x3 convolution and its batch norm."""
    return 9 * in_channels * out_channels + 2 * out_channels


@pytest.mark.parametrize("width", [64, 256])
def test_width_is_every_levels_and_nothing_is_stray(width: int) -> None:
    inner = width // 2
    bottleneck = 2 * inner * width + 9 * inner * inner // 32 + 2 * (inner + inner + width)
    link = _conv3(width, width) + _conv3(width, width // 4)
    generate = 4 * link + 4 * bottleneck + 2 * _conv3(width, width)
    fuse = (2 + 3 + 4) * _conv3(width, width)
    adapt = sum(
        _conv3(one, width) + 3 * bottleneck + _conv3(width, width) for one in (64, 128, 256, 512)
    )
    classifiers = 2 * (width + 1) * NUM_CLASSES
    with torch.device("meta"):
        decoder = _build(width).decoder
    assert (
        sum(one.numel() for one in decoder.parameters())
        == adapt + fuse + 4 * generate + classifiers
    )


def test_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(JobError, match=r"model.width: .*divisible by 64, got 96"):
        _build(width=96)
