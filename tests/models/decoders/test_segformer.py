"""What SegFormer promises beyond the contract: stages of one width, joined at 1/4 by 1x1 alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.models import build_segmenter
from tests.networks import random_stages

torch.set_num_threads(1)
NUM_CLASSES = 5
IMAGE_HW = (64, 96)


def _build(encoder: str = "mit_b0", **changes: Any) -> Any:
    torch.manual_seed(0)
    values = {"architecture": "segformer", "encoder": encoder, "weights": "none", "width": 24}
    return build_segmenter({**values, **changes}, NUM_CLASSES).eval()


def _heads(segmenter: Any, stages: list[Tensor]) -> list[Tensor]:
    heads, _ = segmenter.decoder(torch.empty(1, 3, *IMAGE_HW), tuple(stages))
    return heads


@torch.no_grad()
def test_the_head_computes_the_papers_formulas() -> None:
    segmenter = _build().double()
    decoder = segmenter.decoder
    for buffer in (decoder.join[1].running_mean, decoder.join[1].running_var):
        buffer.uniform_(0.5, 2)
    stages = [stage.double() for stage in random_stages(segmenter, IMAGE_HW)]
    size_hw, levels = stages[0].shape[-2:], []
    for stage, projection in zip(stages, decoder.stages.projections, strict=True):
        tokens = stage.flatten(2).transpose(1, 2) @ projection.weight[:, :, 0, 0].T
        maps = (tokens + projection.bias).transpose(1, 2).unflatten(2, stage.shape[-2:])
        levels.append(F.interpolate(maps, size_hw, mode="bilinear", align_corners=False))
    joined = torch.cat(levels[::-1], dim=1)  # the deepest first, as in the program
    conv, norm = decoder.join[0], decoder.join[1]
    fused = torch.einsum("bchw,kc->bkhw", joined, conv.weight[:, :, 0, 0])
    centred = fused - norm.running_mean[:, None, None]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    fused = (centred * scale[:, None, None] + norm.bias[:, None, None]).relu()
    classifier = decoder.classifier[1]
    expected = torch.einsum("bchw,kc->bkhw", fused, classifier.weight[:, :, 0, 0])
    expected = expected + classifier.bias[:, None, None]
    torch.testing.assert_close(_heads(segmenter, stages)[0], expected, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_a_constant_image_by_hand() -> None:
    """Stages of 1, 2, 3 and 4; averages of channels; weights 1000, 100, 10 and 1, deepest first."""
    segmenter = _build(width=1)
    decoder = segmenter.decoder
    for projection in decoder.stages.projections:
        nn.init.constant_(projection.weight, 1 / projection.in_channels)
        nn.init.zeros_(projection.bias)
    decoder.join[0].weight[0, :, 0, 0] = torch.tensor([1000.0, 100.0, 10.0, 1.0])
    decoder.join[1].eps = 0
    decoder.classifier[1].weight[:, 0, 0, 0] = torch.arange(NUM_CLASSES)
    nn.init.ones_(decoder.classifier[1].bias)
    stages = [
        torch.full_like(stage, number)
        for number, stage in enumerate(random_stages(segmenter, IMAGE_HW), start=1)
    ]
    logits = _heads(segmenter, stages)[0]
    assert logits.shape == (1, NUM_CLASSES, 16, 24)
    expected = 1 + 4321.0 * torch.arange(NUM_CLASSES)[:, None, None].expand(1, -1, 16, 24)
    torch.testing.assert_close(logits, expected)


def test_heads_read_their_stages_alone() -> None:
    segmenter = _build()
    stages = random_stages(segmenter, IMAGE_HW)
    main, aux = _heads(segmenter, stages)
    for logits, expected in ((main, [0, 1, 2, 3]), (aux, [2])):
        gradients = torch.autograd.grad(logits.sum(), stages, allow_unused=True)
        assert [level for level, one in enumerate(gradients) if one is not None] == expected


@pytest.mark.parametrize(
    ("encoder", "width"), [("mit_b0", 256), ("mit_b1", 256), ("mit_b3", 768), ("resnet18", 768)]
)
def test_widths_are_the_papers(encoder: str, width: int) -> None:
    with torch.device("meta"):
        decoder = _build(encoder, width=None).decoder
    assert {one.out_channels for one in decoder.stages.projections} == {width}
    assert (decoder.join[0].out_channels, decoder.join[0].in_channels) == (width, 4 * width)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@torch.no_grad()
def test_a_residual_network_gives_the_stages_from_a_quarter_on(output_stride: int) -> None:
    segmenter = _build("resnet18", output_stride=output_stride)
    channels = [one.in_channels for one in segmenter.decoder.stages.projections]
    assert channels == [64, 128, 256, 512]
    heads = _heads(segmenter, random_stages(segmenter, IMAGE_HW))
    assert heads[0].shape == (1, NUM_CLASSES, 16, 24)
