"""What BiSeNet alone promises: two paths, context added, attention, losses on the context path."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models import build_segmenter
from adapt.models.decoders.bisenet import AttentionRefinement, FeatureFusion

torch.set_num_threads(1)
NUM_CLASSES = 5
HEADS = ["main", "aux_8", "aux_16"]
IMAGE_HW, SIZES_HW = (97, 161), [(49, 81), (25, 41), (13, 21), (7, 11), (4, 6)]


@pytest.fixture
def segmenter() -> Any:
    torch.manual_seed(0)
    values = {"architecture": "bisenet", "encoder": "resnet18", "weights": "none"}
    return build_segmenter(values, NUM_CLASSES).eval()


@pytest.fixture
def inputs() -> list[Tensor]:
    """Images and the five stages."""
    torch.manual_seed(1)
    rows = zip((3, 64, 64, 128, 256, 512), [IMAGE_HW, *SIZES_HW], strict=True)
    return [torch.randn(1, channels, *size_hw) for channels, size_hw in rows]


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _convs_and_norms(module: nn.Module) -> tuple[list[Any], list[Any]]:
    """In order; the norms moved away from what changes nothing."""
    norms = [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return [one for one in module.modules() if isinstance(one, nn.Conv2d)], norms


def _normed(features: Tensor, norm: Any) -> Tensor:
    values = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, variance, weight, bias = (one[:, None, None] for one in values)
    return (features - mean) / (variance + norm.eps).sqrt() * weight + bias


def _average(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3), keepdim=True)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("moved", "heads"),
    [
        ("image", ["main"]),
        (2, []),
        (4, []),
        (8, []),
        (16, ["main", "aux_8"]),
        (32, HEADS),
    ],
)
def test_what_each_head_reads(
    segmenter: Any, inputs: list[Tensor], moved: int | str, heads: list[str]
) -> None:
    logits, _ = segmenter.decoder(inputs[0], inputs[1:])
    assert [one.shape[-2:] for one in logits] == [SIZES_HW[2], SIZES_HW[2], SIZES_HW[3]]
    number = ["image", 2, 4, 8, 16, 32].index(moved)
    inputs[number] = inputs[number] + 1
    others, _ = segmenter.decoder(inputs[0], inputs[1:])
    pairs = zip(HEADS, logits, others, strict=True)
    assert [name for name, one, other in pairs if not torch.equal(one, other)] == heads


@torch.no_grad()
def test_spatial_path_keeps_detail(segmenter: Any, inputs: list[Tensor]) -> None:
    """One pixel of the image is seen by few of the path's: no pools, no averages."""
    moved = inputs[0].clone()
    moved[..., 48, 80] += 1
    spatial = segmenter.decoder.spatial
    before, after = spatial(inputs[0]), spatial(moved)
    assert before.shape == (1, 128, *SIZES_HW[2])
    places = (before != after).any(dim=1)[0].nonzero()
    assert places.tolist() == [[row, column] for row in (5, 6, 7) for column in (9, 10, 11)]


@torch.no_grad()
def test_global_average_is_added(segmenter: Any, inputs: list[Tensor]) -> None:
    """It is all there is where attention says nothing; with it, it is their sum."""
    decoder, seen = segmenter.decoder, []
    decoder.refine[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    average = decoder.average(_average(inputs[5])).expand(-1, -1, *SIZES_HW[3])
    attended = F.interpolate(decoder.attention[0](inputs[5]), SIZES_HW[3], mode="bilinear")
    decoder(inputs[0], inputs[1:])
    decoder.attention[0].register_forward_hook(lambda _, __, output: 0 * output)
    decoder(inputs[0], inputs[1:])
    assert average.any()
    torch.testing.assert_close(seen[0], attended + average)
    torch.testing.assert_close(seen[1], average)


@torch.no_grad()
def test_deep_context_is_added_to_the_attended_middle(segmenter: Any, inputs: list[Tensor]) -> None:
    decoder, seen = segmenter.decoder, []
    decoder.refine[0].register_forward_hook(lambda _, __, output: seen.append(output))
    decoder.refine[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder(inputs[0], inputs[1:])
    total = decoder.attention[1](inputs[4]) + seen[0]
    expected = F.interpolate(total, SIZES_HW[2], mode="bilinear")
    torch.testing.assert_close(seen[1], expected)


@torch.no_grad()
def test_attention_refines_after_a_3x3() -> None:
    torch.manual_seed(0)
    attention, features = AttentionRefinement(6).double().eval(), _double(2, 6, 5, 7)
    (spatial, point), norms = _convs_and_norms(attention)
    projected = _normed(F.conv2d(features, spatial.weight, padding=1), norms[0]).relu()
    assert spatial.weight.shape == (128, 6, 3, 3)
    weights = _normed(F.conv2d(_average(projected), point.weight), norms[1]).sigmoid()
    torch.testing.assert_close(attention(features), projected * weights)


@torch.no_grad()
def test_fusion_adds_what_it_weighs() -> None:
    torch.manual_seed(0)
    fusion, spatial, context = FeatureFusion().double().eval(), *_double(2, 2, 128, 4, 5)
    (join, squeeze, excite), (norm,) = _convs_and_norms(fusion)
    both = torch.cat([spatial, context], dim=1)
    joined = _normed(F.conv2d(both, join.weight), norm).relu()
    hidden = F.conv2d(_average(joined), squeeze.weight).relu()
    weights = F.conv2d(hidden, excite.weight).sigmoid()
    torch.testing.assert_close(fusion(spatial, context), joined + joined * weights)


@torch.no_grad()
def test_all_heads_weigh_the_same(segmenter: Any) -> None:
    labels = torch.randint(NUM_CLASSES, (1, *IMAGE_HW))
    losses = segmenter.segmentation_losses(segmenter(torch.randn(1, 3, *IMAGE_HW)), labels)
    assert {name: weight for name, (weight, _) in losses.items()} == dict.fromkeys(HEADS, 1.0)
